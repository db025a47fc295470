"""Reading and writing key files with the care that they need.

A file with a secret that others can read or replace is refused, not warned about.
"""

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from secrets import token_hex
from typing import Final

from ovfuse.errors import KeyFileError
from ovfuse.quote import quoted

__all__ = ["create_private", "read_public", "read_secret"]

_MAX_SIZE: Final = 64 * 1024


def read_secret(path: Path, *, check_owner: bool = True) -> bytes:
    """Return the content of a file that only its owner may be able to read.

    Args:
        path: the file.
        check_owner: False for files that systemd placed ($CREDENTIALS_DIRECTORY).

    Raises:
        KeyFileError: others can read it, or it belongs to somebody else, or it is
            no regular file of at most 64 KiB.
        OSError: it cannot be opened.
    """
    data, status = _read(path)
    if not check_owner:
        return data
    if status.st_uid not in (0, os.geteuid()):
        raise KeyFileError(f"{quoted(path)} belongs to another user")
    if status.st_mode & 0o077:
        raise KeyFileError(
            f"{quoted(path)} can be used by others than its owner",
            hint=f"chmod 600 {quoted(path)}",
        )
    return data


def read_public(path: Path, *, check_owner: bool = True) -> str:
    """Return the text of a file with public keys, which others must not replace.

    Raises:
        KeyFileError: others can write it, or it is not a text of at most 64 KiB.
        OSError: it cannot be opened.
    """
    data, status = _read(path)
    if check_owner and status.st_uid not in (0, os.geteuid()):
        raise KeyFileError(f"{quoted(path)} belongs to another user")
    if check_owner and status.st_mode & 0o022:
        raise KeyFileError(
            f"{quoted(path)} can be written by others than its owner",
            hint=f"chmod 644 {quoted(path)}",
        )
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise KeyFileError(f"{quoted(path)} is not a text file") from None


def _read(path: Path) -> tuple[bytes, os.stat_result]:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode) or status.st_size > _MAX_SIZE:
            raise KeyFileError(f"{quoted(path)} is not a key file")
        with os.fdopen(fd, "rb", closefd=False) as file:
            return file.read(_MAX_SIZE), status
    finally:
        os.close(fd)


def create_private(path: Path, data: bytes, *, mode: int = 0o600) -> None:
    """Write a new file, whole or not at all; an existing one is never replaced.

    Raises:
        KeyFileError: it exists.
        OSError: it cannot be written.
    """
    # A directory made for public keys is for all: a daemon reads the system's set.
    path.parent.mkdir(
        parents=True, exist_ok=True, mode=0o755 if mode & 0o044 else 0o700
    )
    with _open_new(path) as (fd, name):
        os.fchmod(fd, mode)
        with os.fdopen(fd, "wb", closefd=False) as file:
            file.write(data)
        os.fsync(fd)
        try:
            # Unlike rename, it refuses to replace. The descriptor makes it follow
            # the link that a name in /proc is.
            os.link(name, path, src_dir_fd=fd, follow_symlinks=True)
        except FileExistsError:
            raise KeyFileError(f"{quoted(path)} exists and is not replaced") from None


@contextmanager
def _open_new(path: Path) -> Iterator[tuple[int, str | Path]]:
    """Open a new file for what is to be at `path`, and give a name to link it by.

    It has no name of its own yet, so that nothing is left of it by whoever is killed;
    a random one where the filesystem has no such files.
    """
    temporary = None
    try:
        fd = os.open(path.parent, os.O_WRONLY | os.O_TMPFILE | os.O_CLOEXEC, 0o600)
        name: str | Path = f"/proc/self/fd/{fd}"
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EISDIR):
            raise
        # Nobody can have placed a file or a link of that name beforehand.
        name = temporary = path.with_name(f".{path.name}.{token_hex(8)}").absolute()
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        fd = os.open(temporary, flags, 0o600)
    try:
        yield fd, name
    finally:
        os.close(fd)
        if temporary is not None:
            temporary.unlink(missing_ok=True)
