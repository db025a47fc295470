"""Model directories to seal: every size, name and depth that could go wrong."""

import hashlib
import random
from pathlib import Path

__all__ = [
    "BOUNDARY_SIZES",
    "MANY",
    "NAMES",
    "build_library",
    "build_small",
    "contents",
    "deep_directory",
    "fill",
]

MiB = 1 << 20

BOUNDARY_SIZES = (
    *(0, 1, 16383, 16384, 16385, 65535, 65536, 65537),
    *(8 * MiB - 1, 8 * MiB, 8 * MiB + 1),
)
"""Around a chunk, a block and a step of the writer."""

MANY = 5000
DEPTH = 64

NAMES = (
    *("two words", " leading", "trailing ", "new\nline", "tab\t", "-rf", "*", "?"),
    *("back\\slash", "'single'", '"double"', "$HOME", "...", ".hidden", "a:b"),
    *("\U0001f9e0 \U0001f44d\U0001f3fd", "caf\u00e9", "cafe\u0301", "\u65e5\u672c"),
    *("\x01", "\x1b[31mred", "\x7f", "\u202eltr", "\ufffd", "\U0010ffff"),
    *("a" * 255, "\u00e9" * 127 + "x", "\U0001f9e0" * 63 + "xyz"),
)


def fill(path: Path, size: int) -> bytes:
    """Write bytes that follow from the size and the name; return them."""
    data = random.Random(f"{path.name} {size}").randbytes(size)
    path.write_bytes(data)
    return data


def build_small(directory: Path) -> Path:
    """A model as they usually are: a description, weights of some blocks."""
    (directory / "sub" / "empty").mkdir(parents=True)
    fill(directory / "model.xml", 3000)
    fill(directory / "model.bin", 300_000)
    (directory / "sub" / "labels.txt").write_text("cat\ndog\n")
    (directory / "sub" / "none").touch()
    return directory


def build_library(directory: Path) -> Path:
    """One of everything."""
    (directory / "sizes").mkdir(parents=True)
    for size in BOUNDARY_SIZES:
        fill(directory / "sizes" / f"{size}", size)
    (directory / "zeros").write_bytes(bytes(200_000))
    (directory / "empty" / "in" / "empty").mkdir(parents=True)
    for number, name in enumerate(NAMES):
        where = directory / "names" / name
        where.mkdir(parents=True)
        (where / name).write_text(f"{number}")
    many = directory / "many"
    many.mkdir()
    for number in range(MANY):
        (many / f"{number:04}.txt").write_text(f"{number}\n" * (number % 7))
    deep = deep_directory(directory)
    deep.mkdir(parents=True)
    (deep / "bottom").write_text("deep\n")
    return directory


def deep_directory(directory: Path) -> Path:
    """The directory of a file that is as deep as one can be."""
    return directory.joinpath(*(["down"] * (DEPTH - 1)))


def contents(directory: Path) -> dict[str, str]:
    """Return the SHA-256 of every file below, None of a directory, by path."""
    return {
        str(path.relative_to(directory)): (
            hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
        )
        for path in directory.rglob("*")
    }
