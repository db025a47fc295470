"""Where the kernel engine cannot mount: one line that says why, and what to do."""

import os
import socket
from pathlib import Path
from typing import cast

import pytest

from ovfuse.errors import MountFailedError
from ovfuse.serve import mounting
from ovfuse.serve.engine import Setup
from ovfuse.serve.failures import Failures
from ovfuse.serve.kernel import wire
from ovfuse.serve.kernel.session import _shake_hands
from ovfuse.serve.kernel.wire import Opcode
from ovfuse.serve.options import MountOptions
from ovfuse.view.contract import View

LOOKUP, INIT = Opcode.LOOKUP, Opcode.INIT


@pytest.fixture
def setup(tmp_path: Path) -> Setup:
    return Setup(
        view=cast("View", None),
        cipherdir=tmp_path,
        mountpoint=tmp_path,
        options=MountOptions(),
        failures=Failures(),
    )


def test_user_without_fusermount3(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(mounting, "fusermount", lambda: "/nonesuch/fusermount3")

    with pytest.raises(MountFailedError) as caught:
        mounting.open_mount(setup, 4096)

    assert caught.value.message == "fusermount3: No such file or directory"
    assert "apt install fuse3" in caught.value.hint


def test_fusermount3_that_sends_nothing(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(mounting, "fusermount", lambda: "/bin/true")

    with pytest.raises(MountFailedError, match="fusermount3 sent no descriptor"):
        mounting.open_mount(setup, 4096)


def test_root_without_the_device(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(mounting, "_DEVICE", "/nonesuch")

    with pytest.raises(MountFailedError) as caught:
        mounting.open_mount(setup, 4096)

    assert caught.value.message == "/nonesuch: No such file or directory"


def first_request(opcode: int, *fields: int) -> bytes:
    body = wire.INIT_IN.pack(*fields)
    size = wire.IN_HEADER.size + len(body)
    return wire.IN_HEADER.pack(size, opcode, 1, 0, 0, 0, 0, 0, 0) + body


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (first_request(INIT, 7, 30, 0, 0), "the kernel's FUSE is too old: 7.30"),
        (first_request(INIT, 6, 45, 0, 0), "the kernel's FUSE is too old: 6.45"),
        (first_request(LOOKUP, 7, 45, 0, 0), "the kernel does not begin with INIT"),
        (first_request(INIT, 7, 45, 0, 0)[:50], "the kernel does not begin with INIT"),
        (b"short", "the kernel does not begin with INIT"),
    ],
)
def test_kernel_that_begins_otherwise(request_: bytes, message: str) -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        theirs.send(request_)
        with pytest.raises(MountFailedError) as caught:
            _shake_hands(ours.fileno())

    assert caught.value.message == message


def test_newer_kernel_says_again_what_both_know() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        theirs.send(first_request(INIT, 8, 0, 0, 0))
        theirs.send(first_request(INIT, 7, 99, 1 << 17, 0xFFFFFFFF))
        _shake_hands(ours.fileno())
        replies = [theirs.recv(4096) for _ in range(2)]

    for reply in replies:
        assert wire.OUT_HEADER.unpack_from(reply) == (len(reply), 0, 1)
    major, minor, readahead, *_ = wire.INIT_OUT.unpack_from(replies[1], 16)
    assert (major, minor, readahead) == (wire.MAJOR, wire.MINOR, 1 << 17)
