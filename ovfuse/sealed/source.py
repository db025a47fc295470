"""The model directory that is to be sealed: what is in it, and that it stays so.

The publisher's own files, so not hostile; but a file that changes while it is read,
or something that cannot be sealed, must be an error and never a wrong model.
"""

import os
import stat
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from ovfuse.errors import SourceError
from ovfuse.quote import quoted
from ovfuse.sealed import layout
from ovfuse.sealed.paths import is_path, sort_key

__all__ = [
    "ReadInto",
    "SourceFile",
    "SourceTree",
    "open_unchanged",
    "opened_unchanged",
    "scan",
]

ReadInto = Callable[[memoryview], int]
"""Fills a buffer from where the last call ended; the number of bytes, 0 at the end."""

_Signature = tuple[int, int, int, int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceFile:
    """A file to be sealed: its path in the model, and where and what it is.

    Attributes:
        path: in the model.
        location: on disk.
        size: of the plaintext that is to be sealed, in bytes.
        signature: by which a change of the file on disk is noticed.
    """

    path: str
    location: str
    size: int
    signature: _Signature

    def open(self) -> AbstractContextManager[ReadInto]:
        """Open the content that is to be sealed; see `open_unchanged`."""
        return open_unchanged(self)


@dataclass(frozen=True, slots=True)
class SourceTree:
    """Directories and files, each sorted as the manifest wants them."""

    directories: tuple[str, ...]
    files: tuple[SourceFile, ...]

    @property
    def total_size(self) -> int:
        """The plaintext bytes in all."""
        return sum(file.size for file in self.files)


@dataclass(slots=True)
class _Scan:
    """What was found so far; full before links to directories can multiply it."""

    root: str
    directories: list[str] = field(default_factory=list)
    files: list[SourceFile] = field(default_factory=list)

    def add_directory(self, path: str) -> None:
        self.directories.append(path)
        if len(self.directories) > layout.DIRECTORIES_MAX:
            raise SourceError(f"more than {layout.DIRECTORIES_MAX} directories")

    def add_file(self, file: SourceFile) -> None:
        self.files.append(file)
        if len(self.files) > layout.FILES_MAX:
            raise SourceError(f"more than {layout.FILES_MAX} files")


def scan(model_directory: Path) -> SourceTree:
    """List a model directory; symbolic links are followed if they stay inside.

    Raises:
        SourceError: missing, or something in it cannot be sealed; names it.
    """
    try:
        root = os.path.realpath(model_directory, strict=True)
        if not Path(root).is_dir():
            raise SourceError(f"{quoted(model_directory)} is not a directory")
        found = _Scan(root)
        _scan_directory(found, "", root, (root,))
    except OSError as error:
        where = quoted(error.filename or model_directory)
        raise SourceError(f"{where}: {error.strerror}") from None
    tree = SourceTree(
        tuple(sorted(found.directories, key=sort_key)),
        tuple(sorted(found.files, key=lambda file: sort_key(file.path))),
    )
    if not tree.files:
        raise SourceError(f"there is no file in {quoted(model_directory)}")
    if tree.total_size > layout.MODEL_MAX_SIZE:
        raise SourceError("the files have more than 16 TiB in all")
    return tree


def _scan_directory(
    found: _Scan, prefix: str, location: str, ancestors: tuple[str, ...]
) -> None:
    with os.scandir(location) as entries:
        names = [entry.name for entry in entries]
    for name in names:
        path = f"{prefix}{name}"
        target = _resolve(found.root, path, os.path.join(location, name))  # noqa: PTH118 - bytes-safe strings, many of them
        status = os.lstat(target)
        if stat.S_ISDIR(status.st_mode):
            if target in ancestors:
                raise SourceError(f"{quoted(path)} is a link to a directory around it")
            found.add_directory(path)
            _scan_directory(found, f"{path}/", target, (*ancestors, target))
        elif stat.S_ISREG(status.st_mode):
            found.add_file(_source_file(path, target, status))
        else:
            raise SourceError(
                f"{quoted(path)} is a {_kind(status)} and cannot be sealed"
            )


def _resolve(root: str, path: str, location: str) -> str:
    """Check a path and return the real place of what it names."""
    if not is_path(path):
        raise SourceError(f"{quoted(path)} is not a name or path that can be sealed")
    if not os.path.islink(location):  # noqa: PTH114 - see above
        return location
    target = os.path.realpath(location, strict=True)
    if target != root and not target.startswith(root.rstrip("/") + "/"):
        raise SourceError(
            f"{quoted(path)} is a symbolic link that leaves the model directory",
            hint="copy the file itself into the model directory",
        )
    return target


def _source_file(path: str, location: str, status: os.stat_result) -> SourceFile:
    if status.st_size > layout.PADDED_MAX_SIZE:
        raise SourceError(f"{quoted(path)} is larger than 1 TiB")
    return SourceFile(
        path=path,
        location=location,
        size=status.st_size,
        signature=_signature(status),
    )


def _signature(status: os.stat_result) -> _Signature:
    return (
        status.st_dev,
        status.st_ino,
        status.st_size,
        status.st_mtime_ns,
        status.st_ctime_ns,
    )


_KINDS: Final = (
    (stat.S_ISSOCK, "socket"),
    (stat.S_ISFIFO, "FIFO"),
    (stat.S_ISBLK, "block device"),
    (stat.S_ISCHR, "character device"),
)


def _kind(status: os.stat_result) -> str:
    return next((n for test, n in _KINDS if test(status.st_mode)), "special file")


@contextmanager
def open_unchanged(file: SourceFile) -> Iterator[ReadInto]:
    """Open a file for reading from start to end; see `opened_unchanged`.

    Raises:
        SourceError: it changed since the listing, or cannot be read.
    """
    with opened_unchanged(file) as fd:

        def read_into(buffer: memoryview) -> int:
            try:
                return os.readv(fd, [buffer])
            except OSError as error:
                raise SourceError(f"{quoted(file.path)}: {error.strerror}") from None

        yield read_into


@contextmanager
def opened_unchanged(file: SourceFile) -> Iterator[int]:
    """Yield a descriptor of a file; at the end check that it is what was listed.

    Raises:
        SourceError: it changed since the listing, or cannot be opened.
    """
    try:
        fd = os.open(file.location, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise SourceError(f"{quoted(file.path)}: {error.strerror}") from None
    try:
        _check_unchanged(file, fd)
        yield fd
        _check_unchanged(file, fd)
    finally:
        os.close(fd)


def _check_unchanged(file: SourceFile, fd: int) -> None:
    if _signature(os.fstat(fd)) != file.signature:
        raise SourceError(f"{quoted(file.path)} changed while it was being sealed")
