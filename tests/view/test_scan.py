"""Which directories are sealed models."""

import gc
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ovfuse.errors import CipherdirError
from ovfuse.sealed.opening import SealedModel
from ovfuse.view import scan
from ovfuse.view.scan import find_models


def make(root: Path, *places: str) -> None:
    """Make what looks like sealed models."""
    for place in places:
        (root / place).mkdir(parents=True, exist_ok=True)
        (root / place / "model.ovfuse").touch()


@pytest.fixture
def find(tmp_path: Path) -> Iterator[Callable[[], list[str]]]:
    """Return what lists the places, and check that no descriptor is left open."""
    gc.collect()  # so that nothing of another test goes meanwhile
    before = len(os.listdir("/proc/self/fd"))

    def places() -> list[str]:
        with SealedModel.open(tmp_path) as directory:
            return [place for place, _ in find_models(directory.fd)]

    yield places
    assert len(os.listdir("/proc/self/fd")) == before


Find = Callable[[], list[str]]


def test_single_model(tmp_path: Path, find: Find) -> None:
    make(tmp_path, "", "below")

    assert find() == [""]


def test_tree(tmp_path: Path, find: Find) -> None:
    make(tmp_path, "b", "a/x", "a/y", "é/deep/er", "a/x/below", "a/x/seals/below")
    (tmp_path / "seals-only/seals").mkdir(parents=True)
    (tmp_path / "empty/er").mkdir(parents=True)
    (tmp_path / "file").touch()
    (tmp_path / "a/file").touch()

    assert find() == ["a/x", "a/y", "b", "seals-only", "é/deep/er"]


def test_nothing(find: Find) -> None:
    assert find() == []


def test_links_are_not_followed(tmp_path: Path, find: Find) -> None:
    make(tmp_path, "a")
    (tmp_path / "link").symlink_to("a")
    (tmp_path / "up").symlink_to("..")
    (tmp_path / "gone").symlink_to("nothing")

    assert find() == ["a"]


def test_other_files_are_not_looked_at(tmp_path: Path, find: Find) -> None:
    make(tmp_path, "a")
    os.mkfifo(tmp_path / "fifo")
    with socket.socket(socket.AF_UNIX) as server:
        directory = os.open(tmp_path, os.O_RDONLY)
        server.bind(f"/proc/self/fd/{directory}/socket")
        os.close(directory)

    assert find() == ["a"]


@pytest.mark.parametrize("kind", ["pointer", "seals"])
def test_entry_of_any_kind_makes_a_model(tmp_path: Path, find: Find, kind: str) -> None:
    (tmp_path / "a").mkdir()
    name = "model.ovfuse" if kind == "pointer" else "seals"
    (tmp_path / "a" / name).symlink_to("nothing")

    assert find() == ["a"]


def test_directory_that_no_model_can_be_in_is_told(
    tmp_path: Path, find: Find, caplog: pytest.LogCaptureFixture
) -> None:
    make(tmp_path, "a")
    try:
        (tmp_path / os.fsdecode(b"\xff")).mkdir()
    except OSError:
        pytest.skip("the filesystem has no such names")

    assert find() == ["a"]
    assert [record.getMessage() for record in caplog.records] == [
        r"skipped a directory that no model can be in: '\xff'"
    ]


def test_places_are_at_most_64_deep(tmp_path: Path, find: Find) -> None:
    make(tmp_path, "/".join(["d"] * 64), "/".join(["e"] * 65))

    assert find() == ["/".join(["d"] * 64)]


def test_times_of_the_directories(tmp_path: Path) -> None:
    make(tmp_path, "a")
    os.utime(tmp_path / "a", ns=(1, 123_456_789_012))

    with SealedModel.open(tmp_path) as directory:
        assert find_models(directory.fd) == [("a", 123_456_789_012)]


def test_too_many(tmp_path: Path, find: Find, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path, "a", "b", "c")
    monkeypatch.setattr(scan, "_MODELS_MAX", 3)
    assert find() == ["a", "b", "c"]

    make(tmp_path, "d")
    with pytest.raises(CipherdirError, match="more than 3 sealed models"):
        find()


def denied(*_: object, **__: object) -> None:
    raise PermissionError(13, "Permission denied")


def test_directory_that_cannot_be_opened_counts_as_a_model(
    tmp_path: Path, find: Find, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(tmp_path, "a", "b")
    real = os.open

    def open_but_a(name: str, *arguments: int, **options: int) -> int:
        if name == "a":
            denied()
        return real(name, *arguments, **options)

    monkeypatch.setattr(os, "open", open_but_a)
    assert find() == ["a", "b"]


def test_directory_that_cannot_be_searched_counts_as_a_model(
    tmp_path: Path, find: Find, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a/b").mkdir(parents=True)
    inode = (tmp_path / "a").stat().st_ino
    real = SealedModel.is_sealed

    def is_sealed(model: SealedModel) -> bool:
        if os.fstat(model.fd).st_ino == inode:
            denied()
        return real(model)

    monkeypatch.setattr(SealedModel, "is_sealed", is_sealed)
    assert find() == ["a"]


def test_cipherdir_that_cannot_be_searched(
    find: Find, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SealedModel, "is_sealed", denied)

    with pytest.raises(CipherdirError, match="the cipherdir: Permission denied"):
        find()


def test_directory_that_is_gone_meanwhile(
    tmp_path: Path, find: Find, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(tmp_path, "a", "b")
    real = os.open

    def open_but_a(name: str, *arguments: int, **options: int) -> int:
        if name == "a":
            raise FileNotFoundError(2, "No such file or directory")
        return real(name, *arguments, **options)

    monkeypatch.setattr(os, "open", open_but_a)
    assert find() == ["b"]
