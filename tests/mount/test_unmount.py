"""`ovfuse unmount`: what is in use, what is not ours; and what `status` lists."""

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ovfuse.errors import MountpointError, NotMountedError
from tests.mount.conftest import Sealed
from tests.support.killing import kill_for_good
from tests.support.mounting import (
    Home,
    daemons_of,
    is_gone,
    is_mounted,
    mounted,
    mounts_at,
    refused,
    run_ovfuse,
    start_ovfuse,
    status_of,
    succeed,
)
from tests.support.waiting import wait_until

pytestmark = pytest.mark.fuse


@contextmanager
def holder(directory: Path) -> Iterator[int]:
    """A process whose working directory is there; gives its pid."""
    process = subprocess.Popen(["cat"], cwd=directory, stdin=subprocess.PIPE)
    try:
        yield process.pid
    finally:
        process.communicate()


@contextmanager
def user_in(directory: Path, user: Home) -> Iterator[int]:
    """The same, of that user, who alone may go there."""
    process = subprocess.Popen(
        ["sh", "-c", 'cd "$1" && exec cat', "sh", directory],
        stdin=subprocess.PIPE,
        user=user.uid,
        group=user.uid,
        extra_groups=[],
    )
    try:
        wait_until(lambda: Path(f"/proc/{process.pid}/comm").read_text() == "cat\n")
        yield process.pid
    finally:
        process.communicate()


def test_mount_in_use_names_who_and_stays(
    publisher: Home, small: Sealed, mountpoint: Path, engine: str
) -> None:
    with mounted(publisher, small.cipherdir, mountpoint, engine=engine) as mount:
        with holder(mountpoint / "sub") as pid:
            said = refused(publisher, MountpointError, "unmount", mountpoint)
            assert f"is busy: in use by 'cat' (pid {pid})" in said
            assert "hint: end them, or use --lazy" in said
        with (mountpoint / "model.xml").open("rb"):
            said = refused(publisher, MountpointError, "unmount", mountpoint)
            assert f"(pid {os.getpid()})" in said
        assert mount.status()["state"] == "serving"
        assert (mountpoint / "model.xml").exists()


def test_mount_in_use_names_the_users_process_to_the_user(
    user: Home, small: Sealed, engine: str
) -> None:
    place = user.make_directory(user.directory / "place")
    succeed(user, "encrypt", small.plain, place / "sealed")
    with mounted(user, place / "sealed", place / "mnt", engine=engine):
        with user_in(place / "mnt", user) as pid:
            said = refused(user, MountpointError, "unmount", place / "mnt")
        assert f"in use by 'cat' (pid {pid})" in said


@pytest.mark.skipif(os.geteuid() != 0, reason="only root has a mount that is not his")
def test_who_may_not_unmount_is_told_so_though_it_is_in_use(
    publisher: Home, user: Home, small: Sealed, mountpoint: Path, engine: str
) -> None:
    words = ("-o", "allow_other")
    with mounted(publisher, small.cipherdir, mountpoint, *words, engine=engine):
        with user_in(mountpoint, user):
            said = refused(user, MountpointError, "unmount", mountpoint)
        assert f"cannot unmount '{mountpoint}': " in said
        assert is_mounted(mountpoint)


def test_lazy_takes_it_away_and_open_files_go_on(
    publisher: Home, small: Sealed, mountpoint: Path, engine: str
) -> None:
    data = (small.plain / "model.bin").read_bytes()
    with mounted(publisher, small.cipherdir, mountpoint, engine=engine) as mount:
        with (mountpoint / "model.bin").open("rb", buffering=0) as file:
            assert succeed(publisher, "unmount", "--lazy", mountpoint) == ""
            assert not is_mounted(mountpoint)
            assert not any(mountpoint.iterdir())
            assert file.readall() == data
            assert daemons_of(mountpoint)
        mount.wait_for_end()


def test_place_can_be_used_again_while_open_files_go_on(
    publisher: Home, small: Sealed, mountpoint: Path, engine: str
) -> None:
    data = (small.plain / "model.bin").read_bytes()
    command = ("mount", "-o", f"engine={engine}", small.cipherdir, mountpoint)
    with mounted(publisher, small.cipherdir, mountpoint, engine=engine) as mount:
        with (mountpoint / "model.bin").open("rb", buffering=0) as file:
            succeed(publisher, "unmount", "--lazy", mountpoint)
            assert run_ovfuse(publisher, *command).returncode == 0
            assert (mountpoint / "model.bin").read_bytes() == data
            assert file.readall() == data
        assert mount.status()["state"] == "serving"


def test_lazy_of_what_is_not_in_use_waits_for_the_daemon(
    publisher: Home, small: Sealed, mountpoint: Path, engine: str
) -> None:
    with mounted(publisher, small.cipherdir, mountpoint, engine=engine) as mount:
        assert succeed(publisher, "unmount", "--lazy", mountpoint) == ""
        assert daemons_of(mountpoint) == []
        mount.wait_for_end()


def test_signal_ends_a_mount_in_use(
    publisher: Home, small: Sealed, mountpoint: Path, engine: str
) -> None:
    with (
        mounted(publisher, small.cipherdir, mountpoint, engine=engine) as mount,
        holder(mountpoint),
    ):
        os.kill(mount.pid, signal.SIGTERM)
        mount.wait_for_end()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_other_signals_end_it_as_well(
    publisher: Home, small: Sealed, mountpoint: Path, engine: str, number: int
) -> None:
    with mounted(
        *(publisher, small.cipherdir, mountpoint), engine=engine, foreground=True
    ) as mount:
        os.kill(mount.pid, number)
        mount.wait_for_end()


def test_what_is_no_mount_of_ovfuse(
    publisher: Home, small: Sealed, scratch: Path, engine: str
) -> None:
    (scratch / "directory").mkdir()
    (scratch / "file").touch()
    mountpoint = scratch / "mnt"
    with mounted(publisher, small.cipherdir, mountpoint, engine=engine) as mount:
        inside = mountpoint / "sub"
        for place in (*(scratch / n for n in ("directory", "file", "none")), inside):
            said = refused(publisher, NotMountedError, "unmount", place)
            assert f"no ovfuse mount on '{place}'" in said
        assert mount.status()["state"] == "serving"


def test_mount_of_another_filesystem_is_left_alone(
    publisher: Home, mountpoint: Path
) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can mount a tmpfs")
    subprocess.run(["mount", "-t", "tmpfs", "none", mountpoint], check=True)
    try:
        refused(publisher, NotMountedError, "unmount", mountpoint)
        refused(publisher, NotMountedError, "unmount", "--lazy", mountpoint)
        assert is_mounted(mountpoint)
    finally:
        subprocess.run(["umount", mountpoint], check=True)


def test_mount_of_another_account(
    user: Home, publisher: Home, small: Sealed, mountpoint: Path, engine: str
) -> None:
    with mounted(publisher, small.cipherdir, mountpoint, engine=engine) as mount:
        refused(user, MountpointError, "unmount", mountpoint)
        seen = status_of(user, mountpoint)
        assert seen is not None
        assert (seen["state"], seen["pid"], seen["models"]) == ("unknown", None, [])
        assert mount.status()["state"] == "serving"


def test_root_unmounts_what_a_user_mounted(
    user: Home, publisher: Home, small: Sealed, engine: str
) -> None:
    place = user.make_directory(user.directory / "place")
    succeed(user, "encrypt", small.plain, place / "sealed")
    with mounted(user, place / "sealed", place / "mnt", engine=engine) as mount:
        seen = status_of(publisher, place / "mnt")
        assert seen is not None
        assert succeed(publisher, "unmount", place / "mnt") == ""
        mount.wait_for_end()


def test_stale_mount_of_a_user(user: Home, small: Sealed, engine: str) -> None:
    place = user.make_directory(user.directory / "place")
    succeed(user, "encrypt", small.plain, place / "sealed")
    with mounted(user, place / "sealed", place / "mnt", engine=engine) as mount:
        kill_for_good(mount.pid)
        wait_until(lambda: is_gone(mount.pid))

        assert mount.status()["state"] == "stale"
        assert succeed(user, "unmount", place / "mnt") == ""
        mount.wait_for_end()


def test_stale_mount_in_use(
    publisher: Home, small: Sealed, mountpoint: Path, engine: str
) -> None:
    with (
        mounted(publisher, small.cipherdir, mountpoint, engine=engine) as mount,
        holder(mountpoint),
    ):
        kill_for_good(mount.pid)
        wait_until(lambda: is_gone(mount.pid))
        refused(publisher, MountpointError, "unmount", mountpoint)
        assert succeed(publisher, "unmount", "--lazy", mountpoint) == ""
        mount.wait_for_end()


def test_several_mounts_of_one_cipherdir(
    publisher: Home, small: Sealed, scratch: Path, engine: str
) -> None:
    one, two = scratch / "one", scratch / "two"
    with (
        mounted(publisher, small.cipherdir, one, engine=engine) as first,
        mounted(publisher, small.cipherdir, two, engine=engine) as second,
    ):
        assert first.pid != second.pid
        assert succeed(publisher, "unmount", one) == ""
        first.wait_for_end()
        assert (two / "model.xml").exists()


def test_of_several_at_once_on_one_place_one_wins(
    publisher: Home, small: Sealed, mountpoint: Path, engine: str
) -> None:
    command = ("mount", "-o", f"engine={engine}", small.cipherdir, mountpoint)
    started = [start_ovfuse(publisher, *command) for _ in range(3)]
    for process in started:
        process.communicate()
    codes = sorted(process.returncode for process in started)

    try:
        assert codes == [0, MountpointError.exit_code, MountpointError.exit_code]
        assert len(mounts_at(mountpoint)) == 1
        processes = 2 if engine == "kernel" else 1  # one of them keeps the other
        wait_until(lambda: len(daemons_of(mountpoint)) == processes)
    finally:
        while is_mounted(mountpoint):
            succeed(publisher, "unmount", mountpoint)


def test_status_without_a_mount_says_nothing(home: Home, mountpoint: Path) -> None:
    assert status_of(home, mountpoint) is None
    assert f"{mountpoint}" not in run_ovfuse(home, "status").stdout
    assert isinstance(json.loads(succeed(home, "status", "--json")), list)


def test_daemon_keeps_nothing_open_of_who_started_it(
    publisher: Home, small: Sealed, mountpoint: Path, engine: str
) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root may look into a process that leaves no core dump")
    with mounted(publisher, small.cipherdir, mountpoint, engine=engine) as mount:
        process = Path(f"/proc/{mount.pid}")
        assert f"{(process / 'cwd').readlink()}" == "/"
        for number in (0, 1, 2):
            assert f"{(process / 'fd' / str(number)).readlink()}" == "/dev/null"
        session = int((process / "stat").read_text().rpartition(")")[2].split()[3])
        assert session == mount.pid
