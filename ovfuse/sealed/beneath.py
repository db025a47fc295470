"""Opening files of a cipherdir, which an attacker may have written.

The only place that opens them. One component at a time below a directory
descriptor, never through a symbolic link, never blocking on a FIFO or a device,
regular files only. Sizes are checked before anything is read.
"""

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from ovfuse.errors import CipherdirError, DamagedError

__all__ = [
    "exists",
    "open_directory",
    "open_regular",
    "read_exactly",
    "read_small",
    "reading",
]

_SAFE: Final = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY


@contextmanager
def reading(what: str) -> Iterator[None]:
    """Turn the operating system's errors into ours; `what` names the thing.

    Raises:
        DamagedError: it is missing or of another kind.
        CipherdirError: it cannot be read.
    """
    try:
        yield
    except FileNotFoundError:
        raise DamagedError(f"the {what} is missing") from None
    except OSError as error:
        reason = error.strerror or "input/output error"
        if _is_of_other_kind(error):
            raise DamagedError(f"the {what} is not of the right kind") from None
        raise CipherdirError(f"the {what} cannot be read: {reason}") from None


def _is_of_other_kind(error: OSError) -> bool:
    """Tell whether opening failed because something else is in that place."""
    return error.errno in (errno.ELOOP, errno.ENOTDIR, errno.ENXIO, errno.ENODEV)


def exists(name: str | bytes, parent_fd: int) -> bool:
    """Tell whether there is an entry of this name, whatever it is."""
    try:
        os.stat(name, dir_fd=parent_fd, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def open_directory(name: str | bytes, parent_fd: int, what: str) -> int:
    """Return a descriptor of the directory `name`.

    Raises:
        DamagedError, CipherdirError: see `reading`.
    """
    with reading(what):
        return os.open(name, _SAFE | os.O_DIRECTORY, dir_fd=parent_fd)


def open_regular(name: str, parent_fd: int, what: str) -> tuple[int, int]:
    """Return a descriptor of the regular file `name`, and its size in bytes.

    Raises:
        DamagedError, CipherdirError: see `reading`.
    """
    with reading(what):
        fd = os.open(name, _SAFE, dir_fd=parent_fd)
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode):
        os.close(fd)
        raise DamagedError(f"the {what} is not of the right kind")
    return fd, status.st_size


def read_exactly(fd: int, size: int, offset: int, what: str) -> bytes:
    """Return `size` bytes from `offset`.

    Raises:
        DamagedError: the file ends before.
        CipherdirError: it cannot be read.
    """
    pieces = []
    while size > 0:
        with reading(what):
            piece = os.pread(fd, size, offset)
        if not piece:
            raise DamagedError(f"the {what} is truncated")
        pieces.append(piece)
        size -= len(piece)
        offset += len(piece)
    return b"".join(pieces)


def read_small(name: str, parent_fd: int, max_size: int, what: str) -> bytes:
    """Return the whole content of a file of at most `max_size` bytes.

    Raises:
        DamagedError, CipherdirError: see `reading`; or it is larger.
    """
    fd, size = open_regular(name, parent_fd, what)
    try:
        if size > max_size:
            raise DamagedError(f"the {what} is larger than {max_size} bytes")
        return read_exactly(fd, size, 0, what)
    finally:
        os.close(fd)
