"""Reads files of a mount in every way there is, and compares with the plain ones.

    python hammer.py random PLAIN MOUNT SEED SECONDS   at random, for so long
    python hammer.py stream PLAIN MOUNT PASSES         one file, from start to end
    python hammer.py open MOUNT TIMES                  open, read a byte, close

Knows nothing of ovfuse. Every pass and most random reads first drop what the kernel
has of the file, so that they reach the daemon. Prints how much it read; ends with 1
and says where at the first byte that is not right.
"""

from __future__ import annotations

import mmap
import os
import random
import stat
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

LARGEST_READ = 1 << 20


class WrongError(Exception):
    """What was read is not what was sealed."""


@contextmanager
def opened(path: Path) -> Iterator[int]:
    fd = os.open(path, os.O_RDONLY)
    try:
        yield fd
    finally:
        os.close(fd)


def forget(fd: int) -> None:
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)


class Hammer:
    """One process of several that do the same with other seeds."""

    def __init__(self, plain: Path, mount: Path, seed: int) -> None:
        self.plain = plain
        self.mount = mount
        self.random = random.Random(seed)
        self.paths = [
            path.relative_to(plain)
            for path in sorted(plain.rglob("*"))
            if path.is_file()
        ]
        self.numbers = {path: (mount / path).stat().st_ino for path in self.paths}
        self.bytes_read = 0

    def run(self, seconds: float) -> int:
        """Do things until the time is over; return how many."""
        actions: tuple[Callable[[Path], None], ...] = (
            *([self.read_somewhere] * 6),
            *([self.map_somewhere] * 3),
            self.look,
            self.list_directory,
            self.read_all,
        )
        deadline = time.monotonic() + seconds
        count = 0
        while time.monotonic() < deadline:
            action, path = self.random.choice(actions), self.random.choice(self.paths)
            try:
                action(path)
            except (OSError, WrongError) as error:
                message = f"{action.__name__} {path}, action {count}: {error!r}"
                raise WrongError(message) from error
            count += 1
        return count

    def read_somewhere(self, path: Path) -> None:
        with opened(self.mount / path) as fd, opened(self.plain / path) as expected:
            size = os.fstat(expected).st_size
            for _ in range(self.random.randrange(1, 10)):
                if self.random.random() < 0.5:
                    forget(fd)
                offset = self.random.randrange(size + 10)
                count = self.random.choice((1, 100, 4096, LARGEST_READ))
                count = self.random.randrange(1, count + 1)
                self.compare(
                    os.pread(fd, count, offset), os.pread(expected, count, offset)
                )

    def map_somewhere(self, path: Path) -> None:
        with opened(self.mount / path) as fd, opened(self.plain / path) as expected:
            size = os.fstat(expected).st_size
            if size == 0:
                return
            if self.random.random() < 0.5:
                forget(fd)
            start = self.random.randrange(size) // mmap.PAGESIZE * mmap.PAGESIZE
            length = min(size - start, self.random.randrange(1, 4 * LARGEST_READ))
            with mmap.mmap(
                fd, length, mmap.MAP_SHARED, mmap.PROT_READ, offset=start
            ) as mapping:
                for _ in range(20):
                    offset = self.random.randrange(length)
                    data = mapping[offset : offset + self.random.randrange(1, 20000)]
                    self.compare(data, os.pread(expected, len(data), start + offset))

    def look(self, path: Path) -> None:
        found = (self.mount / path).stat()
        expected = (self.plain / path).stat()
        if (found.st_size, found.st_ino) != (expected.st_size, self.numbers[path]):
            raise WrongError(repr(found))
        if not stat.S_ISREG(found.st_mode):
            raise WrongError(repr(found))

    def list_directory(self, path: Path) -> None:
        directory = path.parent
        names, expected = (
            sorted(entry.name for entry in (base / directory).iterdir())
            for base in (self.mount, self.plain)
        )
        if names != expected:
            raise WrongError(f"another list of {directory}")

    def read_all(self, path: Path) -> None:
        with opened(self.mount / path) as fd:
            forget(fd)
        self.compare((self.mount / path).read_bytes(), (self.plain / path).read_bytes())

    def compare(self, data: bytes, expected: bytes) -> None:
        if data != expected:
            raise WrongError(f"{len(data)} bytes, of which not all are right")
        self.bytes_read += len(data)


def stream(plain: Path, mounted: Path, passes: int) -> int:
    """Read a file again and again; return how many bytes that were."""
    expected = memoryview(plain.read_bytes())
    buffer = memoryview(bytearray(LARGEST_READ))
    for _ in range(passes):
        with opened(mounted) as fd:
            forget(fd)
            offset = 0
            while count := os.readv(fd, [buffer]):
                if buffer[:count] != expected[offset : offset + count]:
                    raise WrongError(f"not right at {offset}")
                offset += count
        if offset != len(expected):
            raise WrongError(f"ends at {offset}")
    return len(expected) * passes


def open_often(mount: Path, times: int) -> int:
    """Open files again and again, several at a time; return how often."""
    paths = [path for path in sorted(mount.rglob("*")) if path.is_file()]
    for number in range(0, times, 4):
        fds = [os.open(paths[(number + n) % len(paths)], os.O_RDONLY) for n in range(4)]
        for fd in fds:
            os.pread(fd, 1, number)
            os.close(fd)
    return times


def main(arguments: list[str]) -> str:
    """Do one of the three things; return what there is to say about it."""
    match arguments:
        case ["random", plain, mount, seed, seconds]:
            hammer = Hammer(Path(plain), Path(mount), int(seed))
            count = hammer.run(float(seconds))
            return f"{count} actions, {hammer.bytes_read} bytes"
        case ["stream", plain, mount, passes]:
            return f"{stream(Path(plain), Path(mount), int(passes))} bytes"
        case ["open", mount, times]:
            return f"{open_often(Path(mount), int(times))} times"
    raise ValueError(arguments)


if __name__ == "__main__":
    try:
        sys.stdout.write(main(sys.argv[1:]) + "\n")
    except WrongError as wrong:
        sys.exit(f"{' '.join(sys.argv[1:])}: {wrong}")
