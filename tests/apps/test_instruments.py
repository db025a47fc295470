"""The instruments of these tests notice what they are there for."""

import random
from pathlib import Path

import pytest

from tests.apps.hammer import Hammer, WrongError, stream
from tests.support.leaks import SCAN_SIZE, PlaintextWindows

COMMON = b"a header that every file of the format begins with, and no secret"
SECRET = random.Random(1).randbytes(5000)
OTHER = random.Random(2).randbytes(SCAN_SIZE + 5000)


def write(path: Path, data: bytes) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(data)
    return path


@pytest.fixture(scope="module")
def windows(tmp_path_factory: pytest.TempPathFactory) -> PlaintextWindows:
    directory = tmp_path_factory.mktemp("windows")
    write(directory / "own" / "model", COMMON + bytes(100) + SECRET)
    write(directory / "own" / "small", SECRET[:31])
    write(directory / "twin" / "model", COMMON + bytes(500) + OTHER[:5000])
    return PlaintextWindows(directory / "own", directory / "twin")


@pytest.mark.parametrize("place", [0, 1, 7, 8, SCAN_SIZE - 31, SCAN_SIZE - 1])
@pytest.mark.parametrize("start", [0, 1, 7, 8, 4321, len(SECRET) - 32])
def test_32_bytes_are_found_anywhere(
    windows: PlaintextWindows, tmp_path: Path, start: int, place: int
) -> None:
    data = OTHER[:place] + SECRET[start : start + 32]
    expected = f"byte {len(COMMON) + 100 + start} of model"
    for end in (b"", b"end"):
        assert windows.found_in(data + end) == (place, expected)
        (leak,) = windows.search([write(tmp_path / "file", data + end)])
        assert (leak.offset, leak.what) == (place, expected)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        SECRET[:31],
        OTHER,
        COMMON + bytes(SCAN_SIZE),
        bytes(b ^ (n % 32 == 31) for n, b in enumerate(SECRET)),  # runs of 31
    ],
)
def test_nothing_else_is_found(
    windows: PlaintextWindows, tmp_path: Path, data: bytes
) -> None:
    assert windows.found_in(data) is None
    assert windows.search([write(tmp_path / "file", data), tmp_path / "gone"]) == []


def test_reader_notices_a_wrong_byte(tmp_path: Path) -> None:
    plain = write(tmp_path / "plain" / "file", SECRET)
    wrong = write(tmp_path / "wrong" / "file", SECRET[:-1] + b"*")
    assert Hammer(plain.parent, plain.parent, seed=1).run(0.1) > 0
    assert stream(plain, plain, passes=2) == 2 * len(SECRET)

    with pytest.raises(WrongError):
        Hammer(plain.parent, wrong.parent, seed=1).run(60)
    with pytest.raises(WrongError):
        stream(plain, wrong, passes=1)
    wrong.write_bytes(SECRET[:-1])
    with pytest.raises(WrongError):
        stream(plain, wrong, passes=1)
