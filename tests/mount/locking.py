"""What the tests of lock, reload and files in memory share: mounts, files, readers."""

import errno
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.mounting import Home, Mount, mounted, status_of, succeed
from tests.support.sealed import pattern
from tests.support.waiting import wait_until

__all__ = [
    "FILES",
    "LARGE",
    "Readers",
    "current_pid",
    "errno_of",
    "lock",
    "opened",
    "reading",
    "serving",
    "state_of",
    "unlock",
]

MiB = 1 << 20
FILES = {
    "model.bin": pattern(3 * MiB + 77),
    "model.xml": pattern(50_000),
    "sub/labels.txt": pattern(9_000),
    "sub/more.bin": pattern(2 * MiB),
}
LARGE = ("model.bin", "sub/more.bin")
"""Those that root's mounts keep in memory."""


@contextmanager
def serving(
    home: Home, cipherdir: Path, mountpoint: Path, *options: str
) -> Iterator[Mount]:
    words = [word for option in options for word in ("-o", option)]
    with mounted(home, cipherdir, mountpoint, *words, engine="kernel") as mount:
        yield mount


@contextmanager
def opened(path: Path) -> Iterator[int]:
    fd = os.open(path, os.O_RDONLY)
    try:
        yield fd
    finally:
        os.close(fd)


def errno_of(call: object, *arguments: object) -> int | None:
    """Return the error number that a call ends with, if it does."""
    assert callable(call)
    try:
        call(*arguments)
    except OSError as error:
        return error.errno
    return None


def lock(mount: Mount, *options: str) -> None:
    assert succeed(mount.home, "lock", *options, mount.mountpoint) == ""


def unlock(mount: Mount, *options: str | os.PathLike[str]) -> None:
    assert succeed(mount.home, "unlock", *options, mount.mountpoint) == ""


def state_of(mount: Mount) -> str:
    state = mount.status()["state"]
    assert isinstance(state, str)
    return state


def current_pid(mount: Mount, state: str = "serving") -> int:
    """Return the daemon of this moment, as soon as it is in a state."""
    wait_until(lambda: status_of(mount.home, mount.mountpoint, state))
    pid = mount.status()["pid"]
    assert isinstance(pid, int)
    return pid


@dataclass
class Readers:
    """Threads that read files all the time, and what went wrong.

    Attributes:
        top: the directory of the files.
        files: what they hold.
        allowed: error numbers that opens and reads may have.
        reads: how many files were read to the end.
        refusals: how many errors there were.
        wrong: anything else.
    """

    top: Path
    files: dict[str, bytes]
    allowed: frozenset[int]
    reads: int = 0
    refusals: int = 0
    wrong: list[str] = field(default_factory=list)
    ended: threading.Event = field(default_factory=threading.Event)

    def read(self) -> None:
        while not self.ended.is_set():
            for name, data in self.files.items():
                try:
                    read = (self.top / name).read_bytes()
                except OSError as error:
                    self._note(error)
                    continue
                # The end of a file in memory comes early when it is taken away.
                if read != data and not (self.allowed and data.startswith(read)):
                    self.wrong.append(f"{name}: other bytes")
                self.reads += 1

    def list(self) -> None:
        expected = sorted({name.partition("/")[0] for name in self.files})
        while not self.ended.is_set():
            try:
                found = sorted(os.listdir(self.top))
            except OSError as error:
                self._note(error)
                continue
            if found != expected:
                self.wrong.append(f"listed {found}")

    def _note(self, error: OSError) -> None:
        self.refusals += 1
        if error.errno not in self.allowed:
            self.wrong.append(errno.errorcode[error.errno or 0])


@contextmanager
def reading(
    top: Path,
    files: dict[str, bytes],
    *,
    allowed: frozenset[int] = frozenset(),
    count: int = 4,
) -> Iterator[Readers]:
    """Read and list meanwhile; nothing may have gone wrong at the end."""
    readers = Readers(top, files, allowed)
    threads = [threading.Thread(target=readers.read) for _ in range(count)]
    threads.append(threading.Thread(target=readers.list))
    for thread in threads:
        thread.start()
    try:
        wait_until(lambda: readers.reads > len(files))
        yield readers
    finally:
        readers.ended.set()
        for thread in threads:
            with suppress(RuntimeError):
                thread.join(30)
    assert not readers.wrong, readers.wrong
