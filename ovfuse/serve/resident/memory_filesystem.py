"""A private tmpfs in no mount table: files in memory that nobody else can reach.

Used for plaintext that the kernel is to serve by itself. tmpfs(5), fsopen(2) and
fsmount(2) are the sources of the words and numbers. Any thread.
"""

import ctypes
import errno
import os
from typing import Final

from ovfuse.secret import may_swap

__all__ = ["MemoryFilesystem"]

_FSOPEN, _FSCONFIG, _FSMOUNT = 430, 431, 432  # the same on every architecture
_CLOEXEC: Final = 1
_SET_FLAG, _SET_STRING, _CREATE = 0, 1, 6
_ATTRIBUTES: Final = 0x2 | 0x4 | 0x8  # nosuid, nodev, noexec
_NEW_FILE: Final = os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC

_libc = ctypes.CDLL(None, use_errno=True)


class MemoryFilesystem:
    """Detached: it is gone with its descriptor and the last file of it.

    Raises:
        OSError: the kernel refuses; or it cannot keep the files out of a swap that
            there is.
    """

    def __init__(self) -> None:
        context = _call(_FSOPEN, b"tmpfs", _CLOEXEC)
        try:
            _configure(context, _SET_STRING, b"mode", b"0700")
            _configure(context, _SET_STRING, b"size", b"100%")
            _try(context, _SET_STRING, b"huge", b"within_size")
            # Linux 6.4. Before it, there must be nothing to swap to.
            if not _try(context, _SET_FLAG, b"noswap", None) and may_swap():
                raise OSError(errno.EPERM, "files in memory could reach the swap")
            _configure(context, _CREATE, None, None)
            self._fd = _call(_FSMOUNT, context, _CLOEXEC, _ATTRIBUTES)
        finally:
            os.close(context)

    def new_file(self, size: int) -> int:
        """Return a descriptor of a new file without a name, of `size` bytes.

        No memory is taken yet.

        Raises:
            OSError: the kernel refuses.
        """
        fd = os.open(".", _NEW_FILE, 0o600, dir_fd=self._fd)
        try:
            os.ftruncate(fd, size)
        except BaseException:
            os.close(fd)
            raise
        return fd

    def close(self) -> None:
        """Give it up; files that are open or mapped stay until they are not."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


def _configure(context: int, kind: int, key: bytes | None, value: bytes | None) -> None:
    _call(_FSCONFIG, context, kind, key, value, 0)


def _try(context: int, kind: int, key: bytes, value: bytes | None) -> bool:
    """Set what this kernel may not know; tell whether it does."""
    try:
        _configure(context, kind, key, value)
    except OSError:
        return False
    return True


def _call(number: int, *arguments: bytes | int | None) -> int:
    words = [
        ctypes.c_long(word) if isinstance(word, int) else ctypes.c_char_p(word)
        for word in arguments
    ]
    result: int = _libc.syscall(ctypes.c_long(number), *words)
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    return result
