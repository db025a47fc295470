"""Writing below a directory descriptor."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from ovfuse.sealed.disk import (
    create_file,
    make_directory,
    remove_tree,
    sync_filesystem,
)
from ovfuse.sealed.writer import write_all
from tests.support.sealed import write_files


@pytest.fixture
def parent_fd(tmp_path: Path) -> Iterator[int]:
    fd = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    yield fd
    os.close(fd)


def test_file_is_new(parent_fd: int, tmp_path: Path) -> None:
    fd = create_file("x", parent_fd)
    write_all(fd, b"content")
    os.close(fd)

    assert (tmp_path / "x").read_bytes() == b"content"
    with pytest.raises(FileExistsError):
        create_file("x", parent_fd)


def test_file_is_not_created_behind_a_link(parent_fd: int, tmp_path: Path) -> None:
    (tmp_path / "x").symlink_to("y")
    with pytest.raises(FileExistsError):
        create_file("x", parent_fd)

    assert not (tmp_path / "y").exists()


def test_directory_is_new_unless_it_may_exist(parent_fd: int) -> None:
    os.close(make_directory("x", parent_fd))

    with pytest.raises(FileExistsError):
        make_directory("x", parent_fd)
    os.close(make_directory("x", parent_fd, exist_ok=True))


def test_link_to_a_directory_is_none(parent_fd: int, tmp_path: Path) -> None:
    (tmp_path / "x").symlink_to("/tmp")

    with pytest.raises(NotADirectoryError):
        make_directory("x", parent_fd, exist_ok=True)


def test_tree_is_removed_and_links_are_not_followed(
    parent_fd: int, tmp_path: Path
) -> None:
    write_files(tmp_path, {"keep/a": b"", "x/y/z": b""})
    (tmp_path / "x/y/link").symlink_to("../../keep")
    (tmp_path / "link").symlink_to("keep")
    remove_tree("x", parent_fd)
    remove_tree("link", parent_fd)

    assert [path.name for path in tmp_path.rglob("*")] == ["keep", "a"]


def test_sync(parent_fd: int) -> None:
    sync_filesystem(parent_fd)
    with pytest.raises(OSError, match="Bad file descriptor"):
        sync_filesystem(-1)


def test_write_goes_on_after_a_part() -> None:
    """A pipe takes what fits; the rest comes when there is room."""
    reading, writing = os.pipe()
    written: list[bytes] = []
    real_write = os.write

    def write_a_little(fd: int, data: memoryview) -> int:
        written.append(bytes(data[:3]))
        return real_write(fd, data[:3])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "write", write_a_little)
        write_all(writing, b"12345678")
    assert os.read(reading, 100) == b"12345678"
    assert written == [b"123", b"456", b"78"]
    os.close(reading)
    os.close(writing)
