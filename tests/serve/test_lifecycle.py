"""A mount from its start to its end: daemons, signals, deaths, leftovers."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from ovfuse.errors import MountpointError, NotMountedError
from ovfuse.serve.control import ask
from ovfuse.serve.mounts import is_stale
from ovfuse.serve.taking_up import clean_up_after_death
from ovfuse.serve.unmount import unmount
from tests.serve.mounter import NOBODY, Mounter, is_gone
from tests.support.killing import kill_for_good
from tests.support.users import needs_root
from tests.support.waiting import wait_until

pytestmark = pytest.mark.fuse


@pytest.fixture
def users_mounter(open_path: Path, mounter: Mounter, users_python: str) -> Mounter:
    """A mounter that is an ordinary user, on a directory of his own."""
    device = Path("/dev/fuse")
    device.chmod(0o666)  # as distributions have it
    mounter.python, mounter.uid = users_python, NOBODY
    parent = open_path.parent
    os.chown(open_path, NOBODY, NOBODY)
    mounter.source = mounter.source.rename(parent / "source")
    mounter.mountpoint = open_path
    mounter.log = parent / "logs" / "log"
    mounter.log.parent.mkdir()
    os.chown(mounter.log.parent, NOBODY, NOBODY)
    mounter.environment["OVFUSE_TEST_CLOSED"] = f"{mounter.log.parent}/closed"
    return mounter


# --- in the background


def test_command_returns_when_the_mount_answers(mounter: Mounter) -> None:
    code, output, errors = mounter.run()

    assert (code, output, errors) == (0, "", "")
    assert (mounter.mountpoint / "small.txt").read_bytes() == b"hello\n"


def test_warning_of_the_daemon_reaches_the_terminal(mounter: Mounter) -> None:
    mounter.environment["OVFUSE_TEST_SWAP"] = "yes"

    code, _, errors = mounter.run()

    assert code == 0
    assert re.fullmatch(r"ovfuse: warning: memory is not locked[^\n]*\n", errors)


@needs_root
def test_daemon_has_left_its_caller(mounter: Mounter) -> None:
    pid = mounter.mount()
    process = Path(f"/proc/{pid}")

    assert (process / "cwd").readlink() == Path("/")
    for descriptor in ("0", "1", "2"):
        assert (process / "fd" / descriptor).readlink() == Path("/dev/null")
    assert os.getsid(pid) == pid
    fields = _fields(process / "status")
    assert fields["Umask"] == "0077"
    assert fields["PPid"] != f"{os.getpid()}"


def test_daemon_is_hardened(mounter: Mounter) -> None:
    pid = mounter.mount()
    process = Path(f"/proc/{pid}")

    limits = (process / "limits").read_text()

    assert re.search(r"Max core file size +0 +0 ", limits)
    soft, hard = re.findall(r"Max open files +(\d+) +(\d+)", limits)[0]
    assert soft == hard
    if os.geteuid() == 0:
        assert int(_fields(process / "status")["VmLck"].split()[0]) > 0


def test_places_may_be_relative(mounter: Mounter) -> None:
    mounter.cwd = mounter.source.parent
    mounter.source, source = Path("source"), mounter.source
    mounter.mountpoint, mountpoint = Path("mnt"), mounter.mountpoint

    code, _, errors = mounter.run()
    mounter.mountpoint = mountpoint

    assert code == 0, errors
    assert mounter.status().cipherdir == f"{source}"


def test_log_goes_to_a_private_file(mounter: Mounter) -> None:
    (mounter.source / "damaged").touch()
    (mounter.source / "damaged").write_bytes(b"x")
    mounter.mount()

    with pytest.raises(OSError, match="Input/output error"):
        (mounter.mountpoint / "damaged").read_bytes()

    assert mounter.log.stat().st_mode & 0o777 == 0o600
    assert "read '/damaged': block 0 is corrupted" in mounter.log.read_text()


def test_log_that_cannot_be_written_is_an_error(mounter: Mounter) -> None:
    mounter.log = mounter.source

    code, _, errors = mounter.run()

    assert code == 2
    assert "log file" in errors


# --- failing to start


@pytest.mark.parametrize("how", [(), ("-f",)], ids=["background", "foreground"])
def test_error_of_the_view_is_the_error_of_the_command(
    mounter: Mounter, how: tuple[str, ...]
) -> None:
    mounter.environment["OVFUSE_TEST_OPEN"] = "nokey"

    code, output, errors = mounter.run(*how)

    assert (code, output) == (15, "")
    assert errors.endswith("ovfuse: error: no identity opens it\nhint: pass -i\n")
    assert not mounter.is_mounted()


@pytest.mark.parametrize(
    ("opening", "message"),
    [
        ("kill", "the daemon died before it was ready"),
        ("exit", "the daemon died before it was ready"),
        ("broken", "unexpected: ValueError"),
    ],
)
def test_daemon_that_dies_early_is_an_error(
    mounter: Mounter, opening: str, message: str
) -> None:
    mounter.environment["OVFUSE_TEST_OPEN"] = opening

    code, _, errors = mounter.run()

    assert code == 21
    assert f"ovfuse: error: {message}" in errors
    assert not mounter.is_mounted()


def test_unsuitable_mountpoint_is_told_before_anything_else(mounter: Mounter) -> None:
    mounter.environment["OVFUSE_TEST_OPEN"] = "broken"
    (mounter.mountpoint / "file").touch()

    code, _, errors = mounter.run()

    assert code == 20
    assert "is not empty" in errors


@pytest.mark.parametrize("engine", ["libfuse"])
def test_missing_libfuse_is_told(mounter: Mounter) -> None:
    mounter.environment["FUSE_LIBRARY_NAME"] = "no-such-library"

    code, _, errors = mounter.run()

    assert code == 21
    assert "libfuse 3 cannot be used" in errors
    assert "hint: install it" in errors


def test_second_mount_on_a_mountpoint_is_refused(mounter: Mounter) -> None:
    processes = [mounter.start() for _ in range(4)]
    codes = [process.wait(60) for process in processes]

    assert sorted(codes) == [0, 20, 20, 20]
    unmount(mounter.mountpoint)
    assert not mounter.is_mounted()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_nothing_is_mounted_for_a_caller_that_was_killed(
    mounter: Mounter, number: int
) -> None:
    mounter.environment["OVFUSE_TEST_OPEN"] = "wait"
    process = mounter.start()
    wait_until(lambda: mounter.opening.exists() and mounter.opening.read_text())
    daemon = int(mounter.opening.read_text())

    process.send_signal(number)
    process.wait(30)
    mounter.gate.touch()

    wait_until(lambda: is_gone(daemon))
    assert not mounter.is_mounted()
    assert not mounter.socket().exists()


def test_daemon_killed_while_the_caller_waits(mounter: Mounter) -> None:
    mounter.environment["OVFUSE_TEST_OPEN"] = "wait"
    process = mounter.start()
    wait_until(lambda: mounter.opening.exists() and mounter.opening.read_text())

    os.kill(int(mounter.opening.read_text()), signal.SIGKILL)

    assert process.wait(30) == 21
    assert not mounter.is_mounted()


def test_mount_of_a_daemon_that_died_before_ready_is_removed(mounter: Mounter) -> None:
    _kill_daemon(mounter)

    clean_up_after_death(mounter.mountpoint)

    assert not mounter.is_mounted()


def test_mount_of_a_living_daemon_is_not_removed(mounter: Mounter) -> None:
    mounter.mount()

    clean_up_after_death(mounter.mountpoint)

    assert mounter.is_serving()


# --- the end


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_signal_is_a_clean_end(mounter: Mounter, number: int) -> None:
    process = mounter.mount_in_foreground()

    process.send_signal(number)

    assert process.wait(30) == 0
    assert not mounter.is_mounted()
    assert not mounter.socket().exists()
    assert mounter.closed.exists()


def test_signal_is_a_clean_end_of_a_daemon(mounter: Mounter) -> None:
    pid = mounter.mount()

    os.kill(pid, signal.SIGTERM)

    wait_until(lambda: is_gone(pid))
    assert not mounter.is_mounted()
    assert not mounter.socket().exists()
    assert mounter.closed.exists()


def test_signals_at_any_moment_leave_nothing(mounter: Mounter) -> None:
    for _ in range(5):
        process = mounter.start("-f")
        wait_until(mounter.is_mounted)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGTERM):
            process.send_signal(number)

        process.communicate(timeout=30)
        assert not mounter.is_mounted()
        assert not mounter.socket().exists()


def test_signal_with_open_files_unmounts_all_the_same(mounter: Mounter) -> None:
    process = mounter.mount_in_foreground()

    descriptor = os.open(mounter.mountpoint / "small.txt", os.O_RDONLY)
    process.terminate()

    assert process.wait(30) == 0
    assert not mounter.is_mounted()
    with pytest.raises(OSError, match="not connected"):
        os.close(descriptor)


def test_signal_while_an_unlock_is_slow(mounter: Mounter) -> None:
    (mounter.source / "slow").mkdir()
    process = mounter.mount_in_foreground()
    reader = subprocess.Popen(
        ["ls", mounter.mountpoint / "slow"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )

    process.terminate()
    mounter.gate.touch()

    assert process.wait(30) == 0
    assert not mounter.is_mounted()
    reader.wait(30)


@needs_root
def test_limit_of_processes_ends_no_mount(users_mounter: Mounter) -> None:
    """More requests are slow than there are threads, and there can be no more."""
    mounter = users_mounter
    if mounter.engine == "libfuse":
        pytest.skip("libfuse starts its threads itself")
    mounter.gate = mounter.log.parent / "gate"
    mounter.environment["OVFUSE_TEST_GATE"] = f"{mounter.gate}"
    (mounter.source / "slow").mkdir()
    daemon = mounter.mount()
    limit_processes(daemon, "1")
    command = [*AS_NOBODY, "ls", f"{mounter.mountpoint}/slow"]
    listed = [subprocess.Popen(command) for _ in range(6)]
    wait_until(lambda: mounter.is_slow(daemon))
    time.sleep(0.2)  # in which it would start threads: nothing else shows that

    status = ask(mounter.socket(), NOBODY)
    mounter.gate.touch()

    assert status is not None
    assert status["pid"] == daemon
    assert [process.wait(30) for process in listed] == [0] * 6
    assert mounter.status().pid == daemon
    limit_processes(daemon, "4096")  # else it could not start fusermount3


AS_NOBODY = ("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups")


def limit_processes(pid: int, count: str) -> None:
    """Let an account's process start no more, if the account has so many."""
    limit = ("prlimit", f"--pid={pid}", f"--nproc={count}:")
    subprocess.run([*AS_NOBODY, *limit], check=True)


_ENDS: dict[str, Callable[[Path], object]] = {
    "unmount": unmount,
    "lazily": lambda path: unmount(path, lazy=True),
    "umount": lambda path: subprocess.run(["umount", path], check=True),
    "fusermount3": lambda path: subprocess.run(["fusermount3", "-u", path], check=True),
}


@pytest.mark.parametrize("end", _ENDS.values(), ids=_ENDS.keys())
@pytest.mark.parametrize("foreground", [True, False])
def test_unmounting_ends_the_daemon(
    mounter: Mounter, end: Callable[[Path], object], foreground: bool
) -> None:
    if foreground:
        process = mounter.mount_in_foreground()
        pid = process.pid
    else:
        pid = mounter.mount()

    end(mounter.mountpoint)

    assert not mounter.is_mounted()
    if foreground:
        assert process.wait(30) == 0
    wait_until(lambda: is_gone(pid))
    assert not mounter.socket().exists()
    assert mounter.closed.exists()


def test_unmount_returns_when_the_daemon_is_gone(mounter: Mounter) -> None:
    pid = mounter.mount()

    unmount(mounter.mountpoint)

    assert is_gone(pid)


def test_busy_mount_names_who_uses_it(mounter: Mounter) -> None:
    pid = mounter.mount()

    with (mounter.mountpoint / "small.txt").open("rb") as file:
        with pytest.raises(MountpointError) as caught:
            unmount(mounter.mountpoint)
        assert f"(pid {os.getpid()})" in caught.value.message
        assert "--lazy" in caught.value.hint
        unmount(mounter.mountpoint, lazy=True)

        assert not mounter.is_mounted()
        assert file.read() == b"hello\n"
        assert not is_gone(pid)
    wait_until(lambda: is_gone(pid))


def test_detached_mount_does_not_stand_in_the_way_of_the_next(mounter: Mounter) -> None:
    first = mounter.mount()
    with (mounter.mountpoint / "small.txt").open("rb") as file:
        unmount(mounter.mountpoint, lazy=True)

        second = mounter.mount()

        assert file.read() == b"hello\n"
    wait_until(lambda: is_gone(first))
    assert mounter.status().pid == second
    assert (mounter.mountpoint / "small.txt").read_bytes() == b"hello\n"


@pytest.mark.parametrize("foreground", [True, False])
def test_signal_ends_a_detached_mount_with_open_files(
    mounter: Mounter, foreground: bool
) -> None:
    pid = mounter.mount_in_foreground().pid if foreground else mounter.mount()
    descriptor = os.open(mounter.mountpoint / "small.txt", os.O_RDONLY)
    subprocess.run(["umount", "-l", mounter.mountpoint], check=True)

    os.kill(pid, signal.SIGTERM)

    wait_until(lambda: is_gone(pid))
    with pytest.raises(OSError, match="not connected"):
        os.read(descriptor, 1)
    with suppress(OSError):
        os.close(descriptor)
    assert mounter.closed.exists()
    assert not mounter.socket().exists()


@pytest.mark.parametrize("kind", ["mapping", "directory"])
def test_mappings_and_working_directories_are_named_too(
    mounter: Mounter, kind: str
) -> None:
    mounter.mount()
    code = (
        "import mmap, os, sys;"
        "f = os.open(sys.argv[1] + '/small.txt', os.O_RDONLY);"
        "m = mmap.mmap(f, 0, prot=mmap.PROT_READ); os.close(f)"
        if kind == "mapping"
        else "import os, sys; os.chdir(sys.argv[1] + '/sub')"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", f"{code}; {_STAY}", mounter.mountpoint],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with holder:
        assert holder.stdout is not None
        holder.stdout.readline()

        with pytest.raises(MountpointError) as caught:
            unmount(mounter.mountpoint)

        assert f"(pid {holder.pid})" in caught.value.message


_STAY = "print(1, flush=True); sys.stdin.read()"


def test_nothing_mounted_is_an_error(mounter: Mounter) -> None:
    with pytest.raises(NotMountedError):
        unmount(mounter.mountpoint)
    with pytest.raises(NotMountedError):
        unmount(mounter.mountpoint / "none")


def test_mount_of_another_kind_is_left_alone() -> None:
    with pytest.raises(NotMountedError):
        unmount(Path("/proc"))


# --- stale mounts


def _kill_daemon(mounter: Mounter) -> None:
    kill_for_good(mounter.mount())
    wait_until(lambda: is_stale(mounter.mountpoint))


def test_killed_daemon_leaves_a_mount_that_is_told_and_removed(
    mounter: Mounter,
) -> None:
    _kill_daemon(mounter)

    code, _, errors = mounter.run()
    assert code == 20
    assert "is gone" in errors
    assert f"hint: ovfuse unmount {mounter.mountpoint}" in errors
    assert mounter.status().state == "stale"
    unmount(mounter.mountpoint)

    assert not mounter.is_mounted()
    mounter.mount()
    assert (mounter.mountpoint / "small.txt").read_bytes() == b"hello\n"


def test_stale_mount_is_removed_by_a_relative_path(
    mounter: Mounter, monkeypatch: pytest.MonkeyPatch
) -> None:
    _kill_daemon(mounter)
    monkeypatch.chdir(mounter.mountpoint.parent)

    unmount(Path("mnt"))

    assert not mounter.is_mounted()


def test_daemon_that_hangs_can_be_unmounted_lazily(mounter: Mounter) -> None:
    pid = mounter.mount()
    os.kill(pid, signal.SIGSTOP)
    try:
        assert mounter.status().state == "unknown"
        unmount(mounter.mountpoint, lazy=True)

        assert not mounter.is_mounted()
    finally:
        os.kill(pid, signal.SIGCONT)
    wait_until(lambda: is_gone(pid))


# --- as an ordinary user


def test_ordinary_user_mounts_and_unmounts(users_mounter: Mounter) -> None:
    code, _, errors = users_mounter.run()

    assert code == 0, errors
    status = users_mounter.status()
    assert status.state == "serving"
    assert status.pid is not None
    assert Path(f"/proc/{status.pid}/fd").stat().st_uid == 0  # not dumpable
    assert _as(users_mounter, "print(open(sys.argv[1] + '/small.txt').read())") == 0
    assert _as(users_mounter, _UNMOUNT) == 0
    assert not users_mounter.is_mounted()


def test_other_accounts_cannot_look_into_a_users_mount(users_mounter: Mounter) -> None:
    users_mounter.mount()

    with pytest.raises(PermissionError):  # not even root
        (users_mounter.mountpoint / "small.txt").read_bytes()


def test_signal_ends_a_users_mount(users_mounter: Mounter) -> None:
    pid = users_mounter.mount()

    os.kill(pid, signal.SIGTERM)

    wait_until(lambda: is_gone(pid))
    assert not users_mounter.is_mounted()
    assert not users_mounter.socket().exists()


def test_users_stale_mount_is_removed_by_him(users_mounter: Mounter) -> None:
    pid = users_mounter.mount()
    kill_for_good(pid)
    wait_until(lambda: is_gone(pid))

    assert _as(users_mounter, _UNMOUNT) == 0
    assert not users_mounter.is_mounted()


def test_allow_other_needs_the_administrators_word(users_mounter: Mounter) -> None:
    code, _, errors = users_mounter.run("-o", "allow_other")

    assert code == 21
    assert "user_allow_other" in errors
    assert not users_mounter.is_mounted()


def test_refusal_of_fusermount_is_told_in_one_line(users_mounter: Mounter) -> None:
    Path("/dev/fuse").chmod(0o600)
    try:
        code, _, errors = users_mounter.run()
    finally:
        Path("/dev/fuse").chmod(0o666)

    assert code == 21
    lines = [line for line in errors.splitlines() if "warning" not in line]
    assert len(lines) == 1
    assert lines[0].startswith("ovfuse: error: FUSE refused: it says ")


_UNMOUNT = (
    "import pathlib; from ovfuse.serve.unmount import unmount;"
    "unmount(pathlib.Path(sys.argv[1]))"
)


def _as(mounter: Mounter, code: str) -> int:
    return subprocess.run(
        [mounter.python, "-c", f"import sys; {code}", mounter.mountpoint],
        env=mounter.environment,
        cwd="/",
        user=mounter.uid,
        group=mounter.uid,
        extra_groups=[],
        stdout=subprocess.DEVNULL,
        check=False,
    ).returncode


# --- what the service manager hears


@pytest.mark.parametrize("kind", ["path", "abstract"])
def test_ready_is_told_when_the_mount_answers(
    mounter: Mounter, tmp_path: Path, kind: str
) -> None:
    address = f"{tmp_path}/n" if kind == "path" else f"\0ovfuse-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(address)
        manager.settimeout(30)
        mounter.environment["NOTIFY_SOCKET"] = address.replace("\0", "@")
        process = mounter.start("-f")
        while b"READY=1" not in manager.recv(4096).split(b"\n"):
            pass

        assert (mounter.mountpoint / "small.txt").read_bytes() == b"hello\n"
        process.terminate()
        while b"STOPPING=1" not in manager.recv(4096).split(b"\n"):
            pass
        assert process.wait(30) == 0


def test_manager_that_is_gone_is_no_reason_to_fail(
    mounter: Mounter, tmp_path: Path
) -> None:
    mounter.environment["NOTIFY_SOCKET"] = f"{tmp_path}/none"

    mounter.mount_in_foreground()


def _fields(status: Path) -> dict[str, str]:
    lines = (line.split(":", 1) for line in status.read_text().splitlines())
    return {name: value.strip() for name, value in lines}
