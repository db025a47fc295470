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


def read_plainly(directory: Path) -> int:
    """A plain path always gives a whole file."""
    return version_of((directory / "model.bin").read_bytes())


def map_plainly(directory: Path) -> int:
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
    "plainly": read_plainly,
    "mapped": map_plainly,
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
