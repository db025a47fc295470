"""The fences of the serving layer that another fence would hide."""

import errno
import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from ovfuse.errors import DamagedError
from ovfuse.sealed.opening import SealedModel
from ovfuse.sealed.wrapping import Identity
from ovfuse.serve import control
from ovfuse.serve.control import ControlServer, socket_path
from ovfuse.serve.engine import Setup, mount_words
from ovfuse.serve.failures import Failures
from ovfuse.serve.libfuse import _Operations
from ovfuse.serve.options import MountOptions
from ovfuse.view.nodes import Numbers
from ovfuse.view.slot import ModelSlot
from ovfuse.view.tree import CipherdirView, open_view
from tests.hostile.published import (
    NAME,
    Published,
    make_published,
    permissive,
    write,
)
from tests.support.mounting import ENGINES, Home, mounted, mounts_at
from tests.support.sealed import recipient_of


@pytest.fixture(scope="module")
def published(identity: Identity) -> Published:
    return make_published().for_recipient(recipient_of(identity).canonical)


@pytest.fixture
def view(tmp_path: Path, published: Published, identity: Identity) -> CipherdirView:
    for place in ("a", "b"):
        write(published.new.files, tmp_path / place / NAME)
    return open_view(tmp_path, permissive(identity, published))


def test_nothing_is_waived_unless_it_is_asked_for() -> None:
    options = MountOptions()

    assert not options.allow_other
    assert not options.allow_untrusted
    assert not options.allow_rollback


def setup_of(view: CipherdirView, place: Path) -> Setup:
    return Setup(
        view=view,
        cipherdir=place,
        mountpoint=place,
        options=MountOptions(),
        failures=Failures(),
    )


def test_every_engine_is_told_the_fences(tmp_path: Path, view: CipherdirView) -> None:
    """Some of them are libfuse's default, or the kernel's for ordinary users."""
    words = mount_words(setup_of(view, tmp_path))
    view.close()

    assert all(words[w] for w in ("ro", "nosuid", "nodev", "default_permissions"))
    assert not words["allow_other"]


@pytest.mark.fuse
@pytest.mark.parametrize("flags", [os.O_WRONLY, os.O_RDWR, os.O_WRONLY | os.O_TRUNC])
def test_engine_opens_for_reading_only(
    tmp_path: Path, view: CipherdirView, flags: int
) -> None:
    """The kernel keeps writers off by itself, because the mount is read-only."""
    setup = setup_of(view, tmp_path)
    operations = _Operations(setup, threading.Event(), lambda: None)
    path = f"/a/{NAME}/a"
    number = operations.open(path, os.O_RDONLY)
    operations.release(path, number)

    with pytest.raises(OSError) as raised:  # noqa: PT011 - errno is next
        operations.open(path, flags)
    assert raised.value.errno == errno.EROFS
    view.close()


@pytest.mark.fuse
@pytest.mark.parametrize("engine", ENGINES)
def test_flags_of_the_mount(home: Home, scratch: Path, engine: str) -> None:
    cipherdir = write(
        make_published().for_recipient(home.recipient).new.files, scratch / NAME
    )
    with mounted(home, cipherdir, scratch / "mnt", engine=engine) as mount:
        (line,) = mounts_at(mount.mountpoint)
    words = line.split(b" ")[5].split(b",")

    assert {b"ro", b"nosuid", b"nodev"} <= set(words)
    assert b"default_permissions" in line
    assert b"allow_other" not in line


def test_refusal_is_remembered_for_a_while(
    tmp_path: Path,
    published: Published,
    identity: Identity,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Else a busy reader would have the daemon hash and unlock all the time."""
    for place in ("a", "b"):
        write(published.new.files, tmp_path / place / NAME)
    pointer = tmp_path / "b" / NAME / "model.ovfuse"
    whole = pointer.read_bytes()
    pointer.write_bytes(b"damaged")
    view = open_view(tmp_path, permissive(identity, published))
    opened = []
    at = SealedModel.at

    def count(fd: int, place: str) -> SealedModel:
        opened.append(place)
        return at(fd, place)

    monkeypatch.setattr(SealedModel, "at", count)
    now = [1000.0]
    monkeypatch.setattr("ovfuse.view.refusal.time.monotonic", lambda: now[0])
    slot = view.slots[1]
    assert isinstance(slot, ModelSlot)
    for _ in range(5):
        with pytest.raises(DamagedError):
            slot.contents()
    assert len(opened) == 1

    pointer.write_bytes(whole)
    now[0] += 5
    assert slot.contents().manifest.name == NAME
    view.close()


def test_numbers_that_collide_are_refused() -> None:
    numbers = Numbers()
    numbers.claim([2, 3])
    for wanted in ([3], [4, 4], [0], [1]):
        with pytest.raises(DamagedError):
            numbers.claim(wanted)

    numbers.claim([4])  # nothing was taken of what was refused


def test_request_without_end_is_cut_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control, "runtime_directory", lambda: tmp_path / "run")
    mountpoint = Path("/nowhere")
    request = b'{"command": "status"' + b" " * 1_000_000 + b"}\n"
    with (
        ControlServer(mountpoint, dict),
        socket.socket(socket.AF_UNIX) as client,
    ):
        client.connect(os.fspath(socket_path(mountpoint, tmp_path / "run")))
        try:
            client.sendall(request)
            answer = client.recv(100)
        except (BrokenPipeError, ConnectionResetError):
            answer = b""

    assert answer == b""


HARDENED = """
import ctypes, os, sys
from ovfuse.secret import harden_process
harden_process()
print(ctypes.CDLL(None).prctl(3, 0, 0, 0, 0), flush=True)
sys.stdin.read()
"""


def test_process_leaves_no_core_and_cannot_be_traced(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", HARDENED],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"0\n"  # PR_GET_DUMPABLE
    os.kill(process.pid, signal.SIGABRT)
    process.communicate()

    assert process.returncode == -signal.SIGABRT
    assert list(tmp_path.iterdir()) == []
