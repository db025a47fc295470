"""Who has keys in memory, and what is left of whoever had them and crashed."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from tests.mount.conftest import Sealed
from tests.support.key_forms import Forms, forms_of_mount
from tests.support.killing import parent_of
from tests.support.machine import core_files_in
from tests.support.mounting import (
    Home,
    Mount,
    daemons_of,
    mounted,
    start_ovfuse,
)
from tests.support.process_memory import descendants_of, forms_in_memory
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.fuse]

UNLIMITED = ("prlimit", "--core=unlimited")
MODEL_KEY = "model key"

READER = """
import mmap, os, sys
mappings = []
for path in sys.argv[1:]:
    fd = os.open(path, os.O_RDONLY)
    mappings.append(mmap.mmap(fd, 0, prot=mmap.PROT_READ))
    os.pread(fd, 1 << 20, 0)
print(sum(mapping[-1] for mapping in mappings), flush=True)
sys.stdin.read()
"""


@pytest.fixture(scope="module", autouse=True)
def _root() -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can look into processes that refuse it")


@pytest.fixture
def keys(publisher: Home, small: Sealed) -> Forms:
    return forms_of_mount(publisher, small.cipherdir)


@contextmanager
def reader(*paths: Path) -> Iterator[int]:
    """An app that has files open, mapped and read."""
    with subprocess.Popen(
        [sys.executable, "-c", READER, *paths],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline()
        yield process.pid


def found_while_running(process: subprocess.Popen[str], keys: Forms) -> set[str]:
    """Look into a command, and what it starts, again and again until it has ended.

    Not into what goes on after it, which are keepers and daemons.
    """
    found: set[str] = set()
    looks = 0
    while process.poll() is None:
        for pid in descendants_of(process.pid):
            if pid == process.pid or not is_server(pid):
                found |= forms_in_memory(pid, keys)
                looks += 1
        time.sleep(0.2)
    assert looks
    _, said = process.communicate()
    assert process.returncode == 0, said
    return found


def is_server(pid: int) -> bool:
    try:
        return b"mount" in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return True


def test_only_keeper_and_daemon_have_keys(
    publisher: Home, small: Sealed, mountpoint: Path, keys: Forms
) -> None:
    def found(*command: str | Path) -> set[str]:
        return found_while_running(start_ovfuse(publisher, *command), keys)

    assert found("mount", small.cipherdir, mountpoint) == set()
    mount = Mount(home=publisher, mountpoint=mountpoint)
    try:
        with reader(*files_of(mountpoint)) as app:
            assert found("status", "--json") == set()
            assert found("reload", mountpoint) == set()
            servers = {mount.pid, parent_of(mount.pid)}
            for pid in servers:
                names = forms_in_memory(pid, keys)
                assert MODEL_KEY in names
                assert all(name.startswith(MODEL_KEY) for name in names)
            wait_until(lambda: set(daemons_of(mountpoint)) == servers)
            assert forms_in_memory(app, keys) == set()
    finally:
        assert found("unmount", "--lazy", mountpoint) == set()
    mount.wait_for_end()


@pytest.fixture
def cores(scratch: Path) -> Iterator[Path]:
    """Where core files go; a process that does not prevent it leaves one."""
    directory = scratch / "cores"
    directory.mkdir()
    try:
        with core_files_in(directory):
            crash_with_core(directory)
            yield directory
    except PermissionError as error:
        pytest.skip(f"{error}")


def crash_with_core(directory: Path) -> None:
    program = "import os; what = 'what-is-in-' + 'a-core-file'; os.abort()"
    subprocess.run([*UNLIMITED, sys.executable, "-c", program], check=False)
    (core,) = directory.iterdir()
    assert b"what-is-in-a-core-file" in core.read_bytes()
    core.unlink()


def test_crashes_leave_no_core_file(
    publisher: Home, small: Sealed, mountpoint: Path, cores: Path
) -> None:
    home = replace(publisher, program=(*UNLIMITED, *publisher.program))
    with mounted(home, small.cipherdir, mountpoint, engine="kernel") as mount:
        daemon = mount.pid
        keeper = parent_of(daemon)
        for number in (signal.SIGSEGV, signal.SIGABRT):  # the second to a successor
            os.kill(daemon, number)
            daemon = wait_for_another(mount, daemon)
        assert files_of(mountpoint)[0].read_bytes()
        os.kill(keeper, signal.SIGABRT)
        mount.wait_for_end()

    assert list(cores.iterdir()) == []


def wait_for_another(mount: Mount, before: int) -> int:
    def is_serving() -> bool:
        found = mount.status()
        return bool(found["state"] == "serving" and found["pid"] != before)

    wait_until(is_serving)
    return int(mount.status()["pid"])


def files_of(mountpoint: Path) -> list[Path]:
    paths = (path for path in sorted(mountpoint.rglob("*")) if path.is_file())
    return [path for path in paths if path.stat().st_size][:5]
