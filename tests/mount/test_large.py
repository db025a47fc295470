"""A file that is larger than what fits into 31 bits."""

import mmap
import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.mounting import Home, mounted, run_as, succeed
from tests.support.users import open_directory

pytestmark = [pytest.mark.fuse, pytest.mark.slow]

MiB = 1 << 20
SIZE = 2048 * MiB + 12345
MARKS = (*range(0, SIZE - MiB, 97 * MiB + 4321), 2048 * MiB - 500, SIZE - 1000)


@pytest.fixture
def place() -> Iterator[Path]:
    with open_directory() as directory:
        yield directory


def test_file_of_two_gibibytes(place: Path, engine: str) -> None:
    home = Home(directory=place / "home")
    (place / "plain").mkdir()
    plain = place / "plain" / "large.bin"
    with plain.open("wb") as file:
        file.truncate(SIZE)
        for mark in MARKS:
            file.seek(mark)
            file.write(random.Random(mark).randbytes(1000))
    succeed(home, "encrypt", place / "plain", place / "sealed")

    with mounted(home, place / "sealed", place / "mnt", engine=engine):
        served = place / "mnt" / "large.bin"
        assert served.stat().st_size == SIZE
        check_marks(served)
        compared = run_as(home, "cmp", plain, served)
        assert (compared.returncode, compared.stdout + compared.stderr) == (0, "")


def check_marks(served: Path) -> None:
    fd = os.open(served, os.O_RDONLY)
    try:
        with mmap.mmap(fd, 0, prot=mmap.PROT_READ) as mapped:
            for mark in reversed(MARKS):
                expected = random.Random(mark).randbytes(1000)
                assert os.pread(fd, 1000, mark) == expected
                assert mapped[mark : mark + 1000] == expected
        assert len(os.pread(fd, 2000, SIZE - 1000)) == 1000
    finally:
        os.close(fd)
