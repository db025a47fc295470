"""What a model directory may hold, and that it stays as it was listed."""

import os
import socket
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from ovfuse.errors import SourceError
from ovfuse.sealed import layout
from ovfuse.sealed.source import SourceFile, SourceTree, open_unchanged, scan
from tests.support.sealed import write_files


def paths(tree: SourceTree) -> tuple[list[str], list[str]]:
    return list(tree.directories), [file.path for file in tree.files]


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_files(tmp_path / "model", {"a": b"a", "d/b": b"bb"})


def test_files_and_directories_are_sorted_by_bytes(tmp_path: Path) -> None:
    names = ["b", "a/x", "a-b/y", "é", "\U0001f98a", "\uffff", "A"]
    write_files(tmp_path, dict.fromkeys(names, b"12"))
    (tmp_path / "empty").mkdir()
    tree = scan(tmp_path)

    assert paths(tree) == (
        ["a", "a-b", "empty"],
        ["A", "a-b/y", "a/x", "b", "é", "\uffff", "\U0001f98a"],
    )
    assert tree.total_size == 14


def test_directory_without_a_file(tmp_path: Path) -> None:
    (tmp_path / "directory").mkdir()

    with pytest.raises(SourceError, match="there is no file in"):
        scan(tmp_path)


def test_links_inside_are_followed(model: Path) -> None:
    (model / "file").symlink_to("d/b")
    (model / "directory").symlink_to("d")
    (model / "absolute").symlink_to(model / "a")
    (model / "chain").symlink_to("file")
    tree = scan(model)

    assert paths(tree) == (
        ["d", "directory"],
        ["a", "absolute", "chain", "d/b", "directory/b", "file"],
    )
    assert {file.size for file in tree.files if file.path != "a"} == {1, 2}
    with open_unchanged(tree.files[2]) as read_into:
        buffer = bytearray(5)
        assert read_into(memoryview(buffer)) == 2


def test_model_directory_may_be_a_link(model: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(model)

    assert paths(scan(tmp_path / "link")) == (["d"], ["a", "d/b"])


def link(target: str) -> Callable[[Path], None]:
    return lambda place: place.symlink_to(target)


def listening_socket(place: Path) -> None:
    directory = os.open(place.parent, os.O_RDONLY)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(f"/proc/self/fd/{directory}/{place.name}")
    os.close(directory)


def device(kind: int) -> Callable[[Path], None]:
    def make(place: Path) -> None:
        try:
            os.mknod(place, kind | 0o600, os.makedev(1, 3))
        except PermissionError:
            pytest.skip("making a device needs CAP_MKNOD")

    return make


def raw_name(name: bytes) -> Callable[[Path], None]:
    def make(place: Path) -> None:
        try:
            os.close(os.open(os.fsencode(place.parent) + b"/" + name, os.O_CREAT))
        except OSError:
            pytest.skip("the filesystem has no such names")

    return make


def deep(place: Path) -> None:
    place.joinpath(*["d"] * 64).mkdir(parents=True)


UNSUITABLE: dict[str, tuple[Callable[[Path], None], str]] = {
    "link outside": (link("/etc/passwd"), "symbolic link that leaves"),
    "relative link outside": (link("../outside"), "symbolic link that leaves"),
    "link to a sibling that begins alike": (link("../model2"), "link that leaves"),
    "link to the root": (link("."), "link to a directory around it"),
    "link to the root by another way": (link("../model"), "directory around it"),
    "link to nothing": (link("nothing"), "No such file"),
    "link to itself": (link("x"), "Too many levels of symbolic links"),
    "FIFO": (os.mkfifo, "is a FIFO and cannot be sealed"),
    "socket": (listening_socket, "is a socket and cannot be sealed"),
    "character device": (device(stat.S_IFCHR), "is a character device and cannot"),
    "block device": (device(stat.S_IFBLK), "is a block device and cannot be sealed"),
    "not UTF-8": (raw_name(b"\xff"), "not a name or path that can be sealed"),
    "too deep": (deep, "not a name or path that can be sealed"),
}


@pytest.mark.parametrize("what", UNSUITABLE)
def test_what_cannot_be_sealed(model: Path, what: str) -> None:
    make, message = UNSUITABLE[what]
    write_files(model.parent / "model2")
    (model.parent / "outside").touch()
    make(model / "d" / "x" if what == "link to itself" else model / "x")

    with pytest.raises(SourceError, match=message) as caught:
        scan(model)
    assert caught.value.message.isprintable()


def test_link_outside_has_a_hint(model: Path) -> None:
    (model / "x").symlink_to("/etc/passwd")
    with pytest.raises(SourceError) as caught:
        scan(model)

    assert "copy the file" in caught.value.hint


def test_links_that_go_round(model: Path) -> None:
    (model / "e").mkdir()
    (model / "d/to_e").symlink_to("../e")
    (model / "e/to_d").symlink_to("../d")

    with pytest.raises(SourceError, match="link to a directory around it"):
        scan(model)


def test_links_that_multiply_directories_end_at_the_cap(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(layout, "DIRECTORIES_MAX", 50)
    for level in range(30):
        (tmp_path / f"l{level}").mkdir()
        for name in "xyz":
            (tmp_path / f"l{level}/{name}").symlink_to(f"../l{level + 1}")
    (tmp_path / "l30").mkdir()

    with pytest.raises(SourceError, match="more than 50 directories"):
        scan(tmp_path)


def test_too_many_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layout, "FILES_MAX", 2)
    write_files(tmp_path, {"a": b"", "b": b"", "c/d": b""})

    with pytest.raises(SourceError, match="more than 2 files"):
        scan(tmp_path)
    (tmp_path / "a").unlink()
    assert paths(scan(tmp_path)) == (["c"], ["b", "c/d"])


@pytest.mark.parametrize(
    ("count", "size", "message"),
    [(1, 2**40 + 1, "larger than 1 TiB"), (17, 2**40, "more than 16 TiB in all")],
)
def test_too_large(tmp_path: Path, count: int, size: int, message: str) -> None:
    for number in range(count):
        (tmp_path / f"{number}").touch()
        try:
            os.truncate(tmp_path / f"{number}", size)
        except OSError:
            pytest.skip("the filesystem has no sparse files of 1 TiB")

    with pytest.raises(SourceError, match=message):
        scan(tmp_path)


@pytest.mark.parametrize("what", ["missing", "file", "link to nothing"])
def test_no_model_directory(tmp_path: Path, what: str) -> None:
    if what == "file":
        (tmp_path / "x").touch()
    elif what == "link to nothing":
        (tmp_path / "x").symlink_to("y")

    with pytest.raises(SourceError):
        scan(tmp_path / "x")


# Unchanged


def file_of(model: Path) -> SourceFile:
    os.utime(model / "a", (1, 1))  # so that every change is seen, however soon
    return scan(model).files[0]


def grow(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"more")


def rewrite(path: Path) -> None:
    path.write_bytes(b"A")


def replace(path: Path) -> None:
    path.with_name("new").write_bytes(b"a")
    os.utime(path.with_name("new"), (1, 1))
    path.with_name("new").rename(path)


def replace_by_link(path: Path) -> None:
    path.rename(path.with_name("moved"))
    path.with_name("other").write_bytes(b"A")
    path.symlink_to("other")


def replace_by_fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


CHANGES = [grow, rewrite, replace, replace_by_link, replace_by_fifo]


@pytest.mark.parametrize("change", CHANGES)
def test_change_before_it_is_opened(
    model: Path, change: Callable[[Path], None]
) -> None:
    file = file_of(model)
    change(model / "a")

    with pytest.raises(SourceError, match="'a' changed while it was being sealed"):
        open_unchanged(file).__enter__()


@pytest.mark.parametrize("change", [grow, rewrite])
def test_change_while_it_is_open(model: Path, change: Callable[[Path], None]) -> None:
    file = file_of(model)
    with pytest.raises(SourceError, match="changed"), open_unchanged(file):
        change(model / "a")


def test_file_that_is_gone(model: Path) -> None:
    file = file_of(model)
    (model / "a").unlink()

    with pytest.raises(SourceError, match="'a': No such file"):
        open_unchanged(file).__enter__()


def test_file_that_cannot_be_read(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> int:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "readv", fail)
    with (
        pytest.raises(SourceError, match="'a': Input/output error"),
        open_unchanged(file_of(model)) as read_into,
    ):
        read_into(memoryview(bytearray(1)))
