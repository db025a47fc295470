"""Files that the kernel may read in the daemon's stead: FUSE passthrough, Linux 6.9.

The numbers are those of <linux/fuse.h>. Needs CAP_SYS_ADMIN. Any thread.
"""

import fcntl
import struct
from typing import Final

__all__ = ["register", "unregister"]

_OPEN: Final = 0x4010E501  # FUSE_DEV_IOC_BACKING_OPEN, _IOW(229, 1, 16 bytes)
_CLOSE: Final = 0x4004E502  # FUSE_DEV_IOC_BACKING_CLOSE, _IOW(229, 2, 4 bytes)
_BACKING_MAP: Final = struct.Struct("=iIQ")
"""fd, flags, padding"""


def register(connection: int, fd: int) -> int:
    """Return the number by which replies to OPEN can name the file `fd`.

    Raises:
        OSError: not allowed, or not known to this kernel.
    """
    # Mutable, or the number would be lost: it is what ioctl(2) returns.
    number: int = fcntl.ioctl(connection, _OPEN, bytearray(_BACKING_MAP.pack(fd, 0, 0)))
    return number


def unregister(connection: int, number: int) -> None:
    """Take the number back; opens that have it go on.

    Raises:
        OSError: there is no such number.
    """
    fcntl.ioctl(connection, _CLOSE, bytearray(struct.pack("=I", number)))
