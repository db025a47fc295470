"""Reads a model that is sealed again and again; a process of the storm.

    python -m tests.apps.storm_reader KIND DIRECTORY

Until its input ends, it reads in one of four ways, and ends with an assertion if a
byte of two sealings is in one file, or what must go together does not. Prints how
often it read, how often a sealing was gone, and how many versions it saw.
"""

import errno
import mmap
import os
import select
import sys
from collections.abc import Callable
from pathlib import Path

from tests.mount.resealing import version_of

__all__ = ["KINDS"]

NAMES = ("model.xml", "model.bin")
SEALINGS_DURING_AN_OPEN = 4
"""By which an open by a plain path fails: the kernel looks twice, and each time what it
found was replaced twice before it was opened."""


def main() -> None:
    """Read until standard input is at its end."""
    read, directory = KINDS[sys.argv[1]], Path(sys.argv[2])
    print("ready", flush=True)  # noqa: T201 - a command
    reads, gone, versions = 0, 0, set()
    while not select.select([sys.stdin], [], [], 0)[0]:
        version = read(directory)
        reads += 1
        if version is None:
            gone += 1
        else:
            versions.add(version)
    print(reads, gone, len(versions))  # noqa: T201


class Plainly:
    """Reads by a plain path, which gives a whole file, however often it is sealed.

    Args:
        read: does it, and returns the version.
    """

    def __init__(self, read: Callable[[Path], int]) -> None:
        self._read = read
        self._seen = 0

    def __call__(self, directory: Path) -> int:
        try:
            version = self._read(directory)
        except OSError as error:
            _check(error, errno.ESTALE)
            version = self._read(directory)
            assert version >= self._seen + SEALINGS_DURING_AN_OPEN, self._seen
        self._seen = version
        return version


def read_whole(directory: Path) -> int:
    """Open and read."""
    return version_of((directory / "model.bin").read_bytes())


def map_whole(directory: Path) -> int:
    """As OpenVINO does: open, map, close, read."""
    with (directory / "model.bin").open("rb") as file:
        mapping = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
    with mapping:
        return version_of(mapping[:])


def read_by_descriptor(directory: Path) -> int | None:
    """What is opened by one descriptor of a model's directory is of one sealing."""
    held = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        return _all_alike([_read_at(held, name) for name in NAMES])
    except OSError as error:
        _check(error, errno.ESTALE)
        return None
    finally:
        os.close(held)


def read_by_version(directory: Path) -> int | None:
    """What is opened below @VERSION is of that version."""
    version = version_of((directory / "model.xml").read_bytes())
    pinned = directory.with_name(f"{directory.name}@{version}")
    if directory.is_mount():
        pinned = directory / f"@{version}"
    try:
        found = _all_alike([(pinned / name).read_bytes() for name in NAMES])
    except OSError as error:
        _check(error, errno.ESTALE, errno.ENOENT)
        return None
    assert found == version
    return found


KINDS: dict[str, Callable[[Path], int | None]] = {
    "plainly": Plainly(read_whole),
    "mapped": Plainly(map_whole),
    "by-descriptor": read_by_descriptor,
    "by-version": read_by_version,
}


def _read_at(directory: int, name: str) -> bytes:
    descriptor = os.open(name, os.O_RDONLY, dir_fd=directory)
    with os.fdopen(descriptor, "rb") as file:
        return file.read()


def _all_alike(contents: list[bytes]) -> int:
    (version,) = {version_of(content) for content in contents}
    return version


def _check(error: OSError, *expected: int) -> None:
    if error.errno not in expected:
        raise error


if __name__ == "__main__":
    main()
