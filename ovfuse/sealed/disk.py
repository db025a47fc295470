"""Writing below a directory descriptor, and making it last.

Used by whatever writes sealed models, and by `decrypt`. Nothing here follows a
symbolic link.
"""

import ctypes
import errno
import os
import shutil
import stat
from typing import Final

__all__ = [
    "create_file",
    "make_directory",
    "remove_tree",
    "start_writeback",
    "sync_filesystem",
]

_CREATE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC

_SYNC_FILE_RANGE_WRITE: Final = 2

_libc = ctypes.CDLL(None, use_errno=True)


def create_file(name: str, parent_fd: int, *, mode: int = 0o666) -> int:
    """Create a file that must not exist yet; return a descriptor for writing.

    Raises:
        OSError: it exists, or the operating system refuses.
    """
    return os.open(name, _CREATE, mode, dir_fd=parent_fd)


def make_directory(
    name: str, parent_fd: int, *, exist_ok: bool = False, mode: int = 0o777
) -> int:
    """Create a directory; return its descriptor.

    Raises:
        OSError: it exists, or the operating system refuses.
    """
    try:
        os.mkdir(name, mode, dir_fd=parent_fd)
    except FileExistsError:
        if not exist_ok:
            raise
    return os.open(name, _DIRECTORY, dir_fd=parent_fd)


def remove_tree(name: str, parent_fd: int) -> None:
    """Remove an entry, whatever it is, with all below it.

    Raises:
        OSError: the operating system refuses, or it is deeper than we can go.
    """
    status = os.stat(name, dir_fd=parent_fd, follow_symlinks=False)
    if stat.S_ISDIR(status.st_mode):
        try:
            shutil.rmtree(name, dir_fd=parent_fd)
        except RecursionError:  # nothing of ours has more than two levels
            raise OSError(errno.EMLINK, "directories are nested too deeply") from None
    else:
        os.unlink(name, dir_fd=parent_fd)


def start_writeback(fd: int) -> None:
    """Ask the system to begin writing out what was written to a file; do not wait.

    It would do so later, and `sync_filesystem` then has less to wait for. Whatever
    goes wrong is told there.
    """
    zero = ctypes.c_int64(0)  # from the beginning, to the end
    _libc.sync_file_range(fd, zero, zero, _SYNC_FILE_RANGE_WRITE)


def sync_filesystem(fd: int) -> None:
    """Write out everything of the filesystem that `fd` is on (syncfs(2)).

    One call instead of one per file; reports what could not be written.

    Raises:
        OSError: something could not be written.
    """
    if _libc.syncfs(fd) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
