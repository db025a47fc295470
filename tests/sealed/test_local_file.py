"""Files that a device keeps for itself: whole or refused, replaced whole or not."""

import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from ovfuse.errors import BusyError, CipherdirError, DamagedError
from ovfuse.sealed.local_file import LocalFile, write_local_file
from ovfuse.secret import Secret

CHUNK = 16 * 1024
STEP = 64 * CHUNK
LABEL = b"ovfuse.test.v1"
HEADER = b'{"a":1}'
KEY = Secret(bytes(range(32)))
SIZES = [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, STEP - 1, STEP, STEP + 1, 3 * STEP + 5]


@pytest.fixture
def fd(tmp_path: Path) -> Iterator[int]:
    """The directory."""
    number = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    yield number
    os.close(number)


def write(fd: int, content: bytes, *, header: bytes = HEADER) -> None:
    write_local_file(
        fd,
        "name",
        header=header,
        key=KEY,
        label=LABEL,
        plaintext=memoryview(content),
    )


def read(fd: int, *, key: Secret = KEY, label: bytes = LABEL) -> tuple[bytes, bytes]:
    """Return header and content; what was released of a bad one must be zeros."""
    memory = bytearray()

    def allocate(size: int) -> memoryview:
        memory[:] = bytes(size)
        return memoryview(memory)

    with LocalFile(fd, "name") as file:
        try:
            file.read_into(allocate, key, label)
        except DamagedError:
            assert not any(memory)
            raise
        return file.header, bytes(memory)


@pytest.mark.parametrize("size", SIZES)
def test_content_comes_back(fd: int, tmp_path: Path, size: int) -> None:
    content = os.urandom(size)
    write(fd, content)

    assert read(fd) == (HEADER, content)
    assert (tmp_path / "name").stat().st_mode & 0o777 == 0o600
    assert os.listdir(tmp_path) == ["name"]


def test_every_bit_of_a_small_file_counts(fd: int, tmp_path: Path) -> None:
    write(fd, b"plaintext")
    path = tmp_path / "name"
    good = path.read_bytes()
    for place in range(len(good)):
        path.write_bytes(good[:place] + bytes([good[place] ^ 1]) + good[place + 1 :])
        with pytest.raises(DamagedError):
            read(fd)


@pytest.mark.parametrize("size", [CHUNK, STEP + CHUNK + 7])
def test_every_chunk_counts(fd: int, tmp_path: Path, size: int) -> None:
    write(fd, os.urandom(size))
    path = tmp_path / "name"
    good = path.read_bytes()
    start = 4 + len(HEADER) + 56
    for place in range(start, len(good), CHUNK + 16):
        path.write_bytes(good[:place] + bytes([good[place] ^ 1]) + good[place + 1 :])
        with pytest.raises(DamagedError, match="corrupted or tampered with"):
            read(fd)
        path.write_bytes(good[:place])  # ends where a chunk does
        with pytest.raises(DamagedError):
            read(fd)


@pytest.mark.parametrize("size", range(0, 90, 3))
def test_truncated_file_is_refused(fd: int, tmp_path: Path, size: int) -> None:
    write(fd, b"plaintext")
    os.truncate(tmp_path / "name", size)

    with pytest.raises(DamagedError):
        read(fd)


def test_other_key_label_or_header_is_refused(fd: int, tmp_path: Path) -> None:
    write(fd, b"plaintext")

    with pytest.raises(DamagedError, match="another key"):
        read(fd, key=Secret(bytes(32)))
    with pytest.raises(DamagedError, match="another key"):
        read(fd, label=b"ovfuse.other.v1")
    path = tmp_path / "name"
    path.write_bytes(path.read_bytes().replace(HEADER, b'{"a":2}'))
    with pytest.raises(DamagedError, match="another key"):
        read(fd)


def test_header_that_is_too_long_is_refused(fd: int, tmp_path: Path) -> None:
    (tmp_path / "name").write_bytes(b"\x7f\xff\xff\xff" + bytes(100))

    with pytest.raises(DamagedError, match="too long"):
        LocalFile(fd, "name")


def test_missing_or_special_file_is_refused(fd: int, tmp_path: Path) -> None:
    with pytest.raises(DamagedError, match="missing"):
        LocalFile(fd, "name")
    os.mkfifo(tmp_path / "name")
    with pytest.raises(DamagedError, match="not of the right kind"):
        LocalFile(fd, "name")


def test_content_replaces_an_older_one(fd: int) -> None:
    write(fd, os.urandom(STEP), header=b"older")
    write(fd, b"newer")

    assert read(fd) == (HEADER, b"newer")


def test_what_a_killed_process_left_is_used_again(fd: int, tmp_path: Path) -> None:
    left = tmp_path / "name.new"
    left.write_bytes(os.urandom(100_000))
    left.chmod(0o644)

    write(fd, b"plaintext")

    assert read(fd) == (HEADER, b"plaintext")
    assert (tmp_path / "name").stat().st_mode & 0o777 == 0o600
    assert os.listdir(tmp_path) == ["name"]


def test_two_writers_are_kept_apart(fd: int, tmp_path: Path) -> None:
    write(fd, b"older")
    with (tmp_path / "name.new").open("wb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(BusyError):
            write(fd, b"newer")

    assert read(fd) == (HEADER, b"older")


def test_link_in_the_way_is_not_followed(fd: int, tmp_path: Path) -> None:
    (tmp_path / "name.new").symlink_to(tmp_path / "victim")
    (tmp_path / "victim").write_bytes(b"precious")

    with pytest.raises(OSError, match="symbolic links"):
        write(fd, b"plaintext")

    assert (tmp_path / "victim").read_bytes() == b"precious"


def test_failed_write_leaves_the_older_one(
    fd: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(fd, b"older")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write(fd, b"newer")

    assert read(fd) == (HEADER, b"older")
    assert os.listdir(tmp_path) == ["name"]


def test_file_that_becomes_shorter_meanwhile_is_refused(
    fd: int, tmp_path: Path
) -> None:
    write(fd, os.urandom(STEP))
    with LocalFile(fd, "name") as file:
        os.truncate(tmp_path / "name", STEP // 2)
        with pytest.raises((DamagedError, CipherdirError)):
            file.read_into(lambda size: memoryview(bytearray(size)), KEY, LABEL)
