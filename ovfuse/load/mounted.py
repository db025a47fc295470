"""A directory on an ovfuse mount as a source: the daemon decrypts.

The files are those that were there when it was opened. A mount that shows another
sealing meanwhile shows other files under the same names: that is noticed, so that
nobody gets the topology of one version with the weights of another.
"""

import errno
import io
import os
import stat
import threading
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Final

from ovfuse.errors import (
    CipherdirError,
    DamagedError,
    NoUsableKeyError,
    UntrustedError,
)
from ovfuse.load.files import PositionalFile
from ovfuse.load.source import check_path, closed
from ovfuse.memory import wipe
from ovfuse.mountinfo import FILESYSTEM_TYPE, list_mounts
from ovfuse.quote import quoted
from ovfuse.sealed.parallel import run_steps, usable_cpus
from ovfuse.sealed.paths import sort_key

__all__ = ["MountedSource", "is_on_mount"]

_STEP_SIZE: Final = 4 * 1024 * 1024
_OPENING: Final = os.O_RDONLY | os.O_CLOEXEC
_STATUS_HINT: Final = "ovfuse status says why"

_Version = tuple[int, int, int, int]
"""Device, inode, mtime and size: another sealing's file differs in one of them."""


def is_on_mount(path: Path) -> bool:
    """Tell whether a directory is on a mount of ovfuse.

    Raises:
        UntrustedError: on one that somebody else mounted, who then decides what is in
            it; root's is believed.
        CipherdirError: it is missing or cannot be read.
    """
    with _reading(str(path)):
        device = path.stat().st_dev
    found = [mount for mount in list_mounts() if mount.device == device]
    if not found or found[0].filesystem_type != FILESYSTEM_TYPE:
        return False
    if found[0].user_id not in {0, os.geteuid()}:
        raise UntrustedError(
            f"{quoted(path)} is on a mount of another account",
            hint="mount it as this account or as root",
        )
    return True


class MountedSource:
    """See `source.Source`.

    Args:
        path: a directory on a mount.

    Raises:
        NoUsableKeyError, DamagedError, CipherdirError: it cannot be listed.
    """

    facts: None = None

    def __init__(self, path: Path) -> None:
        self.where: Final = str(path)
        with _reading(self.where):
            self._fd = os.open(path, _OPENING | os.O_DIRECTORY)
        try:
            found = dict(self._scan("", self._fd))
        except BaseException:
            os.close(self._fd)
            raise
        self._versions: Final = {p: found[p] for p in sorted(found, key=sort_key)}
        self.files: Final[Mapping[str, int]] = MappingProxyType(
            {path: version[3] for path, version in self._versions.items()}
        )
        self._lock = threading.Lock()
        self._open: weakref.WeakSet[PositionalFile] = weakref.WeakSet()

    def read_into(self, path: str, buffer: memoryview) -> None:
        """Read a whole file; the daemon authenticates; see `Source.read_into`."""
        size = self._check(path)
        if len(buffer) != size:
            raise ValueError("the buffer has another size than the file")
        try:
            self._fill(path, buffer)
        except BaseException:
            wipe(buffer)
            raise

    def open(self, path: str) -> io.RawIOBase:
        """Open a file; closing the source closes it."""
        size = self._check(path)
        fd = self._open_file(path)

        def read_into(offset: int, buffer: memoryview) -> int:
            target = buffer[: max(0, size - offset)]
            _fill(fd, path, target, offset)
            return len(target)

        file = PositionalFile(read_into, size, lambda: os.close(fd))
        with self._lock:
            self._open.add(file)
        return file

    def derive_key(self, label: bytes) -> None:  # noqa: ARG002 - the daemon has the key
        """Return None: only the daemon has the model key."""
        if self._fd < 0:
            raise closed()

    def close(self) -> None:
        """Close every descriptor."""
        fd, self._fd = self._fd, -1
        if fd < 0:
            return
        with self._lock:
            files = list(self._open)
        for file in files:
            file.close()
        os.close(fd)

    def _fill(self, path: str, buffer: memoryview) -> None:
        fd = self._open_file(path)

        def step(number: int) -> None:
            start = number * _STEP_SIZE
            _fill(fd, path, buffer[start : start + _STEP_SIZE], start)

        try:
            run_steps(-(-len(buffer) // _STEP_SIZE), lambda: step, usable_cpus())
        finally:
            os.close(fd)

    def _check(self, path: str) -> int:
        if self._fd < 0:
            raise closed()
        return check_path(self.files, path)

    def _scan(self, prefix: str, fd: int) -> Iterator[tuple[str, _Version]]:
        with _reading(prefix or self.where):
            names = os.listdir(fd)
        for name in names:
            path = f"{prefix}{name}"
            with _reading(path):
                status = os.stat(name, dir_fd=fd, follow_symlinks=False)
            if stat.S_ISREG(status.st_mode):
                yield path, _version(status)
            elif stat.S_ISDIR(status.st_mode):
                with _reading(path):
                    child = os.open(
                        name, _OPENING | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=fd
                    )
                try:
                    yield from self._scan(f"{path}/", child)
                finally:
                    os.close(child)

    def _open_file(self, path: str) -> int:
        with _reading(path):
            fd = os.open(path, _OPENING, dir_fd=self._fd)
        try:
            with _reading(path):
                status = os.fstat(fd)
            if _version(status) != self._versions[path]:
                raise CipherdirError(
                    f"{quoted(path)} is of another sealing by now",
                    hint="open the model again",
                )
        except BaseException:
            os.close(fd)
            raise
        return fd


def _version(status: os.stat_result) -> _Version:
    return status.st_dev, status.st_ino, status.st_mtime_ns, status.st_size


def _fill(fd: int, path: str, target: memoryview, offset: int) -> None:
    while target:
        with _reading(path):
            count = os.preadv(fd, [target], offset)
        if count == 0:
            raise CipherdirError(f"{quoted(path)} ended while it was read")
        target = target[count:]
        offset += count


@contextmanager
def _reading(what: str) -> Iterator[None]:
    """Turn what a mount answers into our errors.

    Raises:
        DamagedError: EIO: damage or distrust, which only the daemon tells apart.
        NoUsableKeyError: EACCES: no key, the terms, or going back.
        CipherdirError: anything else.
    """
    try:
        yield
    except OSError as error:
        text = f"{quoted(what)}: {error.strerror or 'input/output error'}"
        if error.errno == errno.EIO:
            raise DamagedError(
                f"{text}: damaged or not trusted", hint=_STATUS_HINT
            ) from None
        if error.errno in (errno.EACCES, errno.EPERM):
            raise NoUsableKeyError(
                f"{text}: the mount refuses it", hint=_STATUS_HINT
            ) from None
        if error.errno == errno.ESTALE:
            raise CipherdirError(
                f"{quoted(what)} is of a sealing that was replaced",
                hint="open the model again",
            ) from None
        if error.errno in (errno.ENOTCONN, errno.ECONNABORTED):
            raise CipherdirError(
                f"{text}: nobody serves the mount any more", hint="mount it again"
            ) from None
        raise CipherdirError(text) from None
