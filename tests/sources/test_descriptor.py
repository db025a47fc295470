"""`fd:`: files, pipes, and what neither is."""

import os
import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from ovfuse.errors import KeyFileError
from ovfuse.keys.sources import descriptor as module
from ovfuse.keys.sources.contract import MAX_SIZE
from ovfuse.keys.sources.descriptor import DescriptorSource

CONTENT = b"first line\nsecond line"


def read(source: object) -> bytes:
    assert isinstance(source, DescriptorSource)
    with source.read() as secret:
        return bytes(secret.view)


@pytest.fixture
def pipe() -> Iterator[tuple[DescriptorSource, int]]:
    """A source, and where its content is written."""
    reader, writer = os.pipe()
    yield DescriptorSource(reader), writer
    for fd in (reader, writer):
        with suppress(OSError):
            os.close(fd)


def test_file_is_read_from_its_beginning_each_time(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(CONTENT)
    with (tmp_path / "x").open("rb") as file:
        file.read(5)
        source = DescriptorSource(file.fileno())

        assert read(source) == CONTENT
        assert read(source) == CONTENT
        assert source.held() == (source, (file.fileno(),))
        assert not os.get_inheritable(file.fileno())


def test_memory_file() -> None:
    fd = os.memfd_create("x")
    os.write(fd, CONTENT)
    source = DescriptorSource(fd)

    assert read(source) == CONTENT
    os.close(fd)


def test_pipe_is_read_to_its_end(pipe: tuple[DescriptorSource, int]) -> None:
    source, writer = pipe
    os.write(writer, CONTENT)
    os.close(writer)

    assert read(source) == CONTENT
    assert read(source) == b""


def test_socket_is_read_to_its_end() -> None:
    ours, theirs = socket.socketpair()
    with ours:
        theirs.sendall(CONTENT)
        theirs.close()

        assert read(DescriptorSource(ours.fileno())) == CONTENT


@pytest.mark.parametrize("content", [CONTENT, b"", b"x" * MAX_SIZE, b"\n\n"])
def test_pipe_that_is_held_can_be_read_again(content: bytes) -> None:
    reader, writer = os.pipe()
    if os.fork() == 0:
        os.close(reader)
        os.write(writer, content)
        os._exit(0)
    os.close(writer)
    source, held = DescriptorSource(reader).held()
    os.wait()

    assert held == (reader,)
    assert source == DescriptorSource(reader)
    assert read(source) == content
    assert read(source) == content
    assert not os.get_inheritable(reader)
    assert "secretmem" in f"{Path(f'/proc/self/fd/{reader}').readlink()}"
    with pytest.raises(OSError, match="Illegal seek"):
        os.pread(reader, 1, 0)
    os.close(reader)


def test_pipe_without_memory_to_keep_it_in(
    pipe: tuple[DescriptorSource, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a kernel before Linux 5.14, or one that is told to have none."""
    monkeypatch.setattr(module, "_MEMFD_SECRET", 100_000)
    with pytest.raises(KeyFileError, match="can be read only once"):
        pipe[0].held()


def test_pipe_that_does_not_end(
    pipe: tuple[DescriptorSource, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_SECONDS", 0.2)
    os.write(pipe[1], CONTENT)

    for call in (pipe[0].read, pipe[0].held):
        with pytest.raises(KeyFileError, match=r"does not end within 0\.2 seconds"):
            call()


def test_too_much(pipe: tuple[DescriptorSource, int], tmp_path: Path) -> None:
    if os.fork() == 0:
        os.close(pipe[0].number)
        os.write(pipe[1], b"x" * (MAX_SIZE + 1))
        os._exit(0)
    os.close(pipe[1])
    with pytest.raises(KeyFileError, match="more than a key needs"):
        pipe[0].held()
    os.close(pipe[0].number)
    os.wait()
    (tmp_path / "x").write_bytes(b"x" * (MAX_SIZE + 1))
    with (
        (tmp_path / "x").open("rb") as file,
        pytest.raises(KeyFileError, match="is not a key file"),
    ):
        DescriptorSource(file.fileno()).read()


def test_descriptor_that_is_not_open() -> None:
    fd = os.open("/dev/null", os.O_RDONLY)
    os.close(fd)

    for call in (DescriptorSource(fd).read, DescriptorSource(fd).held):
        with pytest.raises(KeyFileError, match=f"'fd:{fd}': Bad file descriptor"):
            call()


def test_descriptor_that_cannot_be_read(pipe: tuple[DescriptorSource, int]) -> None:
    with pytest.raises(KeyFileError, match="cannot be read"):
        DescriptorSource(pipe[1]).held()


def test_directory(tmp_path: Path) -> None:
    fd = os.open(tmp_path, os.O_RDONLY)
    with pytest.raises(KeyFileError, match=f"'fd:{fd}'"):
        DescriptorSource(fd).read()
    os.close(fd)


def test_terminal() -> None:
    terminal, its_end = os.openpty()
    with pytest.raises(KeyFileError, match="is a terminal"):
        DescriptorSource(its_end).read()
    os.close(terminal)
    os.close(its_end)
