"""The list of mounts: what the kernel says, joined with what daemons say."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from ovfuse.mountinfo import Mount
from ovfuse.serve import control
from ovfuse.serve.mounts import is_stale
from ovfuse.serve.status import MountStatus, list_status, mount_status
from ovfuse.view.contract import ModelStatus
from tests.serve.mounter import Mounter
from tests.support.killing import kill_for_good
from tests.support.waiting import wait_until

MOUNT = Mount(
    mountpoint=Path("/proc"),  # answers, and is nobody's of ours
    filesystem_type="fuse.ovfuse",
    source="/srv/sealed",
    device=1,
    user_id=os.getuid(),
)
NOTHING_KNOWN = MountStatus(
    mountpoint="/proc", cipherdir="/srv/sealed", state="unknown", models=[]
)


@pytest.fixture
def answered(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What a daemon answers; tests fill it."""
    answer: dict[str, Any] = {"pid": 7, "ready": True}
    monkeypatch.setattr(control, "ask", lambda *_, **__: answer)
    return answer


@pytest.mark.fuse
def test_serving_mount(mounter: Mounter) -> None:
    pid = mounter.mount()

    [found] = [s for s in list_status() if s.mountpoint == f"{mounter.mountpoint}"]

    assert found.cipherdir == f"{mounter.source}"
    assert (found.pid, found.engine, found.state) == (pid, mounter.engine, "serving")
    assert found.failed_reads == 0
    assert [model.name for model in found.models] == ["memory"]
    assert found.models[0].version == 1


@pytest.mark.fuse
def test_mount_of_a_dead_daemon_is_stale(mounter: Mounter) -> None:
    kill_for_good(mounter.mount())
    wait_until(lambda: is_stale(mounter.mountpoint))

    [found] = [s for s in list_status() if s.mountpoint == f"{mounter.mountpoint}"]

    assert (found.state, found.pid, found.models) == ("stale", None, [])
    subprocess.run(["umount", mounter.mountpoint], check=True)
    mounter.socket().unlink()


@pytest.mark.fuse
def test_user_sees_the_mount_of_another_as_unknown(
    open_path: Path,
    mounter: Mounter,
    users_python: str,
    users_environment: dict[str, str],
) -> None:
    mounter.mountpoint = open_path
    mounter.mount()
    code = (
        "import json; from ovfuse.serve.status import list_status;"
        "print(json.dumps([mount.as_json() for mount in list_status()]))"
    )

    listed = subprocess.run(
        [users_python, "-c", code],
        env=users_environment,
        user=65534,
        group=65534,
        extra_groups=[],
        capture_output=True,
        check=True,
    ).stdout

    [found] = [m for m in json.loads(listed) if m["mountpoint"] == f"{open_path}"]
    assert found["state"] == "unknown"
    assert found["cipherdir"] == f"{mounter.source}"
    assert (found["pid"], found["models"]) == (None, [])


def test_silent_daemon_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "ask", lambda *_, **__: None)

    assert mount_status(MOUNT) == NOTHING_KNOWN


def test_answer_of_an_older_daemon_is_understood(answered: dict[str, Any]) -> None:
    found = mount_status(MOUNT)

    assert (found.state, found.pid, found.models) == ("serving", 7, [])
    assert found.failed_reads is None


def test_malformed_answer_does_no_harm(answered: dict[str, Any]) -> None:
    answered |= {
        "models": [{"name": 1, "version": "x", "new": 0}, 5],
        "failed_reads": [],
    }

    assert mount_status(MOUNT).models == [
        ModelStatus(name="1", path="", model_id="", version=0, state="", reason="")
    ]


def test_every_field_is_in_the_json(answered: dict[str, Any]) -> None:
    answered |= {"models": [{"name": "m", "version": 3}], "engine": "libfuse"}

    text = json.dumps(mount_status(MOUNT).as_json())

    fields = json.loads(text)
    assert fields.keys() >= {
        *("mountpoint", "cipherdir", "pid", "engine", "state", "models"),
        "failed_reads",
        "keeper",
    }
    assert fields["models"][0].keys() >= {
        "name",
        "model_id",
        "version",
        "state",
        "reason",
    }
