"""What a keeper keeps of a mount that is locked: nothing that leads to a key."""

import os
import signal
from pathlib import Path

import pytest

from ovfuse.errors import MountFailedError
from ovfuse.keeping import Keeping
from ovfuse.serve.background import Launch, QuietLaunch
from ovfuse.serve.survival.keeper import keep_serving

KEY = b"k" * 32


def keep_and_die(keeping: Keeping, *names: str) -> None:
    for name in names:
        keeping.keep(name, KEY)
    os.kill(os.getpid(), signal.SIGKILL)


def test_nothing_is_kept_of_what_comes_after_a_lock(tmp_path: Path) -> None:
    """Such as a sealing that was unlocked at the same moment."""

    def serve(launch: Launch, keeping: Keeping) -> None:
        left = dict(keeping.take(""))
        launch.ready()
        if not keeping.is_successor:
            keeping.keep("connection")
            keeping.keep("sealing/1", KEY)
            assert keeping.lock()
            keep_and_die(keeping, "sealing/2")
        (tmp_path / "names").write_text(" ".join(sorted(left)))

    keep_serving(serve, QuietLaunch())
    assert (tmp_path / "names").read_text() == "connection locked"


def test_nothing_is_kept_of_an_unlock_that_was_interrupted(tmp_path: Path) -> None:
    def serve(launch: Launch, keeping: Keeping) -> None:
        left = dict(keeping.take(""))
        launch.ready()
        if not keeping.is_successor:
            keeping.lock()
            keep_and_die(keeping)
        if not (tmp_path / "tried").exists():
            (tmp_path / "tried").touch()
            assert keeping.lock()
            keep_and_die(keeping, "cipherdir", "sealing/1")
        (tmp_path / "names").write_text(" ".join(sorted(left)))

    keep_serving(serve, QuietLaunch())
    assert (tmp_path / "names").read_text() == "locked"


def test_unlocked_is_what_was_kept_for_it(tmp_path: Path) -> None:
    def serve(launch: Launch, keeping: Keeping) -> None:
        left = dict(keeping.take(""))
        launch.ready()
        if not keeping.is_successor:
            keeping.lock()
            keep_and_die(keeping)
        if keeping.is_locked:
            keeping.keep("sealing/1", KEY)
            assert keeping.unlock()
            keep_and_die(keeping)
        ((name, record),) = left.items()
        (tmp_path / name.replace("/", "-")).write_bytes(record.data)

    keep_serving(serve, QuietLaunch())
    assert (tmp_path / "sealing-1").read_bytes() == KEY


def test_error_of_the_daemon_is_told() -> None:
    def serve(launch: Launch, _keeping: Keeping) -> None:
        launch.ready()
        raise MountFailedError("broken")

    with pytest.raises(MountFailedError, match="broken"):
        keep_serving(serve, QuietLaunch())
