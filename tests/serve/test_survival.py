"""What a daemon leaves to its successor: messages, counts, requests; no keys here."""

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from ovfuse.keeping import Record
from ovfuse.serve.survival.channel import Channel, End, new_buffer, receive, send


@pytest.fixture
def engine() -> str:
    return "kernel"


# Messages


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """The keeper's end, and the daemon's."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        yield ours, theirs


def test_message_comes_with_bytes_and_descriptors_and_leaves_none(
    pair: tuple[socket.socket, socket.socket], tmp_path: Path
) -> None:
    ours, theirs = pair
    buffer = new_buffer()
    fd = os.open(tmp_path, os.O_RDONLY)
    Channel(theirs, {}, None).keep("näme\n/", b"a\nkey", [fd, fd])
    os.close(fd)

    message = receive(ours, buffer)

    assert message is not None
    assert message.fields == {"kind": "keep", "name": "näme\n/"}
    assert bytes(message.record.data) == b"a\nkey"
    assert not any(buffer)
    for copy in message.record.fds:
        assert os.path.samestat(os.fstat(copy), tmp_path.stat())
        assert not os.get_inheritable(copy)
    message.record.close()
    for copy in message.record.fds:
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(copy)


def test_what_was_sent_before_death_arrives(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    """Also where the dead one had not read what it was told: then a reset comes."""
    ours, theirs = pair
    for number in range(3):
        send(theirs, "drop", name=f"{number}")
    send(ours, "heard", heard=True)
    theirs.close()

    names = []
    while (message := receive(ours, new_buffer())) is not None:
        names.append(message.fields["name"])
    assert names == ["0", "1", "2"]


def test_daemon_without_a_keeper_hears_nothing(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    ours, theirs = pair
    channel = Channel(theirs, {}, None)
    ours.close()

    channel.keep("a", b"b", [0])
    channel.drop("a")
    assert channel.ask("ready") == {}
    with pytest.raises(OSError, match="Broken pipe"):
        channel.tell("ended")


def test_inheritance_is_taken_once_and_the_rest_closed(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    _, theirs = pair
    fds = [os.dup(theirs.fileno()) for _ in range(2)]
    records = {"a/1": Record(b"one", fds[:1]), "b/2": Record(b"two", fds[1:])}
    channel = Channel(theirs, records, End(crashed=False, reason="Killed"))
    assert channel.is_successor
    assert not channel.predecessor_crashed

    taken = dict(channel.take("a/"))
    assert list(taken) == ["1"]
    assert bytes(taken["1"].data) == b"one"
    assert not dict(channel.take("a/"))
    channel.close_inherited()

    assert os.fstat(fds[0])
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fds[1])
    taken["1"].close()
