"""Reads a mount whose daemon is killed again and again; a process of that test.

    python survival_reader.py KIND MOUNTPOINT PLAIN PROGRESS

Until its input ends, it reads in one way and compares with the plain directory; any
error and any wrong byte ends it. After each round it writes how many there were, as 8
bytes, to the file PROGRESS. Each round begins with a name that is missing, for which
the kernel asks the daemon every time. Stands alone: an ordinary user may not enter the
checkout.
"""

import mmap
import os
import random
import select
import sys
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path

__all__ = ["KINDS"]

PIECE = 100_000


class Reader:
    """What readers share: the trees, and what is open for as long as they live."""

    def __init__(self, top: Path, plain: Path) -> None:
        self.top = top
        self.plain = plain
        self.names = sorted(
            f"{path.relative_to(plain)}" for path in plain.rglob("*") if path.is_file()
        )
        self.hashes = {name: self.digest(plain / name) for name in self.names}
        self.largest = max(self.names, key=lambda name: (plain / name).stat().st_size)
        self.directory = os.open(top, os.O_RDONLY | os.O_DIRECTORY)
        self.held = os.open(top / self.largest, os.O_RDONLY)

    def digest(self, path: Path) -> bytes:
        return sha256(path.read_bytes()).digest()

    def whole(self) -> None:
        """Each file by its path."""
        for name in self.names:
            forget_pages(self.top / name)
            assert self.digest(self.top / name) == self.hashes[name], name

    def mapped(self) -> None:
        """As OpenVINO does: open, map, close, read."""
        for name in self.names:
            if not (self.plain / name).stat().st_size:
                continue
            forget_pages(self.top / name)
            with (self.top / name).open("rb") as file:
                mapping = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
            with mapping:
                assert sha256(mapping).digest() == self.hashes[name], name

    def listed(self) -> None:
        """All directories."""
        found = dict(tree(self.top))
        assert found == dict(tree(self.plain)), found

    def looked_at(self) -> None:
        """Sizes, of each file."""
        for name in self.names:
            size = (self.plain / name).stat().st_size
            assert (self.top / name).stat().st_size == size, name

    def by_descriptor(self) -> None:
        """Each file by the directory's descriptor."""
        for name in self.names:
            fd = os.open(name, os.O_RDONLY, dir_fd=self.directory)
            try:
                self.compare(fd, name)
            finally:
                os.close(fd)

    def held_open(self) -> None:
        """Anywhere in a file that stays open."""
        for _ in range(20):
            self.compare(self.held, self.largest)

    def compare(self, fd: int, name: str) -> None:
        """Compare a piece of a file, read anew."""
        offset = random.randrange((self.plain / name).stat().st_size + 1)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        with (self.plain / name).open("rb") as file:
            wanted = os.pread(file.fileno(), PIECE, offset)
        assert os.pread(fd, PIECE, offset) == wanted, (name, offset)

    def inferred(self) -> None:
        """One inference, of a model that is read anew."""
        import numpy  # noqa: ICN001  only where it is asked for
        import openvino

        core = openvino.Core()
        model = core.compile_model(self.top / "ir/model.xml", "CPU")
        result = model(numpy.zeros((1, 4), numpy.float32))[0]
        assert result.tolist() == [[3.0] * 4]


KINDS: dict[str, Callable[[Reader], None]] = {
    "whole": Reader.whole,
    "mapped": Reader.mapped,
    "listed": Reader.listed,
    "looked-at": Reader.looked_at,
    "by-descriptor": Reader.by_descriptor,
    "held-open": Reader.held_open,
    "inferred": Reader.inferred,
}


def tree(top: Path) -> Iterator[tuple[str, set[str]]]:
    """Yield each directory and what is in it."""
    for place, directories, files in os.walk(top, onerror=_raise):
        yield f"{Path(place).relative_to(top)}", {*directories, *files}


def forget_pages(path: Path) -> None:
    """Have the kernel ask for them again."""
    fd = os.open(path, os.O_RDONLY)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(fd)


def _raise(error: OSError) -> None:
    raise error


def main() -> None:
    """Read until standard input is at its end."""
    read, top, plain = KINDS[sys.argv[1]], Path(sys.argv[2]), Path(sys.argv[3])
    reader, rounds = Reader(top, plain), 0
    progress = os.open(sys.argv[4], os.O_WRONLY | os.O_CREAT, 0o644)
    while not select.select([sys.stdin], [], [], 0)[0]:
        assert not (top / "missing").exists()
        read(reader)
        rounds += 1
        os.pwrite(progress, rounds.to_bytes(8, "big"), 0)


if __name__ == "__main__":
    main()
