"""Plaintext back to disk: what `decrypt` does, and nothing else.

Writes only below a directory that was empty, one component at a time from its
descriptor, never through a symbolic link, never over anything or into a directory
that somebody else made. After an error nothing of it is left.
"""

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from ovfuse.errors import OutputError
from ovfuse.quote import quoted
from ovfuse.sealed.disk import create_file, make_directory, remove_tree
from ovfuse.sealed.manifest import FileEntry
from ovfuse.sealed.paths import parent_of
from ovfuse.sealed.sealing import Sealing
from ovfuse.sealed.writer import write_all

__all__ = ["Output"]

_FILE_MODE: Final = 0o600
_DIRECTORY_MODE: Final = 0o700
_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


class Output:
    """An empty directory that plaintext is written into.

    Files and directories are their owner's alone, whatever the umask.
    """

    def __init__(self, directory_fd: int) -> None:
        self._fd = directory_fd
        self._made: set[str] = set()  # directories, and everything at the top

    @classmethod
    @contextlib.contextmanager
    def open(cls, path: Path) -> Iterator["Output"]:
        """Open a directory that is empty or made now; after an error it is so again.

        Raises:
            OutputError: it holds something, or cannot be used.
        """
        made, fd = _open_or_make(path)
        output = cls(fd)
        try:
            yield output
        except BaseException:
            output.remove()
            if made and _is_same(path, fd):
                with contextlib.suppress(OSError):
                    path.rmdir()
            raise
        finally:
            os.close(fd)

    def write(
        self, sealing: Sealing, place: str, on_bytes: Callable[[int], None]
    ) -> None:
        """Write all directories and files of a sealing below `place`.

        What is in it gets the sealing time, as the mount shows it.

        Raises:
            OutputError: the disk refuses.
            DamagedError, CipherdirError: a file is not what was sealed.
        """
        prefix = f"{place}/" if place else ""
        manifest = sealing.manifest
        directories = [f"{prefix}{path}" for path in manifest.directories]
        for path in (*_with_parents(place), *directories):
            self._make(path)
        for entry in manifest.files:
            self._write_file(sealing, entry, f"{prefix}{entry.path}", on_bytes)
        seconds = manifest.facts.sealed_at
        for path in (*reversed(directories), *filter(None, [place])):
            with self._parent(path) as (fd, name):
                os.utime(name, (seconds, seconds), dir_fd=fd, follow_symlinks=False)

    def remove(self) -> None:
        """Remove what was written; what others put there meanwhile stays."""
        for path in self._made:
            if "/" not in path:
                with contextlib.suppress(OSError):
                    remove_tree(path, self._fd)

    def _make(self, path: str) -> None:
        if path in self._made:  # by the model before, in a tree
            return
        with self._parent(path) as (fd, name), self._making(path):
            os.close(make_directory(name, fd, mode=_DIRECTORY_MODE))

    def _write_file(
        self,
        sealing: Sealing,
        entry: FileEntry,
        path: str,
        on_bytes: Callable[[int], None],
    ) -> None:
        with self._parent(path) as (parent_fd, name), self._making(path):
            fd = create_file(name, parent_fd, mode=_FILE_MODE)
        try:
            for piece in sealing.stream_file(entry):
                with _writing(path):
                    write_all(fd, piece)
                on_bytes(len(piece))
            seconds = sealing.manifest.facts.sealed_at
            with _writing(path):
                os.utime(fd, (seconds, seconds))
        finally:
            with _writing(path):
                os.close(fd)

    @contextlib.contextmanager
    def _making(self, path: str) -> Iterator[None]:
        """Note it beforehand: an interrupt in between must not leave it behind."""
        self._made.add(path)
        try:
            yield
        except FileExistsError:  # somebody else's
            self._made.remove(path)
            raise

    @contextlib.contextmanager
    def _parent(self, path: str) -> Iterator[tuple[int, str]]:
        """Open the directory that holds `path`; all of it was made by us."""
        *parents, name = path.split("/")
        fd = os.dup(self._fd)
        try:
            with _writing(path):
                for component in parents:
                    parent_fd = fd
                    fd = os.open(
                        component, _DIRECTORY | os.O_NOFOLLOW, dir_fd=parent_fd
                    )
                    os.close(parent_fd)
                yield fd, name
        finally:
            os.close(fd)


def _open_or_make(path: Path) -> tuple[bool, int]:
    """Return whether the directory was made, and a descriptor; it is empty."""
    made = False
    try:
        with contextlib.suppress(FileExistsError):
            path.mkdir(mode=_DIRECTORY_MODE)
            made = True
        # A link that the user names is followed; one that replaces what we made, not.
        fd = os.open(path, _DIRECTORY | (os.O_NOFOLLOW if made else 0))
    except OSError as error:
        raise OutputError(f"{quoted(path)}: {error.strerror}") from None
    try:
        if os.listdir(fd):
            raise OutputError(f"{quoted(path)} is not empty")
    except BaseException as error:
        os.close(fd)
        if isinstance(error, OSError):
            raise OutputError(f"{quoted(path)}: {error.strerror}") from None
        raise
    return made, fd


def _is_same(path: Path, fd: int) -> bool:
    """Tell whether the directory is still where it was."""
    try:
        return os.path.samestat(path.lstat(), os.fstat(fd))
    except OSError:
        return False


def _with_parents(place: str) -> list[str]:
    paths = []
    while place:
        paths.append(place)
        place = parent_of(place)
    return paths[::-1]


@contextlib.contextmanager
def _writing(path: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OutputError(f"{quoted(path)}: {error.strerror}") from None
