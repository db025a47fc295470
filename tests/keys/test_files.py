"""Key files: refused where others could read or replace them, never overwritten."""

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from ovfuse.errors import KeyFileError
from ovfuse.keys.files import create_private, read_public, read_secret


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "key"
    path.write_bytes(b"content")
    path.chmod(0o600)
    return path


@pytest.mark.parametrize("mode", [0o600, 0o400, 0o700])
def test_secret_of_the_owner_alone(file: Path, mode: int) -> None:
    file.chmod(mode)

    assert read_secret(file) == b"content"


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o602, 0o610, 0o601, 0o777])
def test_secret_that_others_can_use(file: Path, mode: int) -> None:
    file.chmod(mode)
    with pytest.raises(KeyFileError, match="can be used by others") as caught:
        read_secret(file)

    assert caught.value.hint == f"chmod 600 '{file}'"
    assert read_secret(file, check_owner=False) == b"content"


def test_secret_of_somebody_else(file: Path, give_away: Callable[[Path], None]) -> None:
    give_away(file)
    with pytest.raises(KeyFileError, match="belongs to another user"):
        read_secret(file)

    assert read_secret(file, check_owner=False) == b"content"


@pytest.mark.parametrize("mode", [0o600, 0o644, 0o444, 0o755])
def test_public_file_that_others_cannot_write(file: Path, mode: int) -> None:
    file.chmod(mode)

    assert read_public(file) == "content"


@pytest.mark.parametrize("mode", [0o622, 0o602, 0o620, 0o666, 0o777])
def test_public_file_that_others_can_write(file: Path, mode: int) -> None:
    file.chmod(mode)
    with pytest.raises(KeyFileError, match="can be written by others") as caught:
        read_public(file)

    assert caught.value.hint == f"chmod 644 '{file}'"
    assert read_public(file, check_owner=False) == "content"


def test_public_file_of_somebody_else(
    file: Path, give_away: Callable[[Path], None]
) -> None:
    give_away(file)
    with pytest.raises(KeyFileError, match="belongs to another user"):
        read_public(file)

    assert read_public(file, check_owner=False) == "content"


def test_public_file_that_is_no_text(file: Path) -> None:
    file.write_bytes(b"\xff")

    with pytest.raises(KeyFileError, match="is not a text file"):
        read_public(file)


@pytest.mark.parametrize("read", [read_secret, read_public])
@pytest.mark.parametrize("size", [65536, 65537])
def test_size(file: Path, read: Callable[[Path], str | bytes], size: int) -> None:
    os.truncate(file, size)
    if size <= 65536:
        assert len(read(file)) == size
        return
    with pytest.raises(KeyFileError, match="is not a key file"):
        read(file)


@pytest.mark.parametrize("read", [read_secret, read_public])
@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_something_else(
    tmp_path: Path, read: Callable[[Path], object], make: Callable[[Path], None]
) -> None:
    make(tmp_path / "x")

    with pytest.raises(KeyFileError, match="is not a key file"):
        read(tmp_path / "x")


@pytest.mark.parametrize("read", [read_secret, read_public])
def test_missing_file_is_the_callers_matter(
    tmp_path: Path, read: Callable[[Path], object]
) -> None:
    with pytest.raises(FileNotFoundError):
        read(tmp_path / "x")


@pytest.mark.parametrize(
    ("mode", "of_directory"), [(0o600, 0o700), (0o644, 0o755), (0o400, 0o700)]
)
def test_file_is_created_with_its_directory(
    tmp_path: Path, mode: int, of_directory: int
) -> None:
    path = tmp_path / "a" / "b" / "key"
    old = os.umask(0o022)
    try:
        create_private(path, b"new", mode=mode)
    finally:
        os.umask(old)

    assert path.read_bytes() == b"new"
    assert stat.S_IMODE(path.stat().st_mode) == mode
    assert stat.S_IMODE(path.parent.stat().st_mode) == of_directory
    assert path.parent.stat().st_uid == os.geteuid()
    assert os.listdir(path.parent) == ["key"]


@pytest.mark.parametrize("kind", ["file", "link", "link to nothing", "directory"])
def test_existing_file_is_never_replaced(tmp_path: Path, kind: str) -> None:
    path, other = tmp_path / "key", tmp_path / "other"
    if kind == "file":
        path.write_bytes(b"old")
    elif kind == "directory":
        path.mkdir()
    else:
        path.symlink_to("other")
    if kind == "link":
        other.write_bytes(b"old")
    before = sorted(os.listdir(tmp_path))

    with pytest.raises(KeyFileError, match="exists and is not replaced"):
        create_private(path, b"new")
    assert sorted(os.listdir(tmp_path)) == before
    if kind in {"file", "link"}:
        assert path.read_bytes() == b"old"


def test_nothing_is_left_when_it_cannot_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="No space"):
        create_private(tmp_path / "key", b"new")

    assert os.listdir(tmp_path) == ["home"]
