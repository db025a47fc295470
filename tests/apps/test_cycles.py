"""Mounts that come and go, and files in memory opened again and again: nothing stays.

A few here; scripts/soak makes a thousand mounts, and ten thousand opens on one.
"""

import mmap
import os
import re
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import pytest

from ovfuse.serve.control import runtime_directory, socket_path
from tests.support.mounting import Home, Mount, daemons_of, mounted, mounts_at, succeed
from tests.support.swap import Group, UnavailableError, new_group
from tests.support.users import open_directory
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.fuse]

MOUNTS = int(os.environ.get("OVFUSE_MOUNTS", "10"))
OPENS = int(os.environ.get("OVFUSE_RESIDENT_OPENS", "300"))

KiB = 1 << 10
MiB = 1 << 20
FILES = {f"{number}.bin": 4 * MiB + number for number in range(3)}
RESIDENT = sum(FILES.values())

MAX_GROWTH = 2 * MiB


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    if os.geteuid() != 0:
        pytest.skip("only root may have the kernel serve files from memory")
    with open_directory() as directory:
        yield directory


@pytest.fixture(scope="module")
def group(place: Path) -> Iterator[Group | None]:
    """What tells the memory that mounts take from what others do, where it can be."""
    with ExitStack() as stack:
        try:
            yield stack.enter_context(new_group())
        except UnavailableError as error:
            say(f"files in memory are not counted: {error}")
            yield None


@pytest.fixture(scope="module")
def owner(place: Path, group: Group | None) -> Home:
    home = Home(directory=place / "home")
    succeed(home, "keygen")
    return group.home(home) if group else home


@pytest.fixture(scope="module")
def cipherdir(place: Path, owner: Home) -> Path:
    (place / "plain").mkdir()
    for name, size in FILES.items():
        (place / "plain" / name).write_bytes(os.urandom(size))
    succeed(owner, "encrypt", place / "plain", place / "cipherdir")
    return place / "cipherdir"


def kib(path: str, name: str) -> int:
    """Return what /proc says in kB, in bytes."""
    text = Path(path).read_text()
    (found,) = re.findall(rf"^{name}:\s*(\d+) kB$", text, re.MULTILINE)
    return int(found) * KiB


def left_of(mountpoint: Path) -> list[object]:
    """Return what is there of a mount, but for memory."""
    socket = socket_path(mountpoint, runtime_directory())
    sockets = [socket] if socket.exists() else []
    return [*mounts_at(mountpoint), *daemons_of(mountpoint), *sockets]


@dataclass(frozen=True)
class Process:
    """A process of a mount, as it is now."""

    descriptors: int
    mappings: int
    memory: int

    @classmethod
    def of(cls, pid: int) -> Self:
        return cls(
            descriptors=len(list(Path(f"/proc/{pid}/fd").iterdir())),
            mappings=len(Path(f"/proc/{pid}/maps").read_text().splitlines()),
            memory=kib(f"/proc/{pid}/status", "VmRSS"),
        )


def processes_of(mount: Mount) -> dict[str, Process]:
    found = mount.status()
    return {name: Process.of(found[name]) for name in ("keeper", "pid")}


def open_one(path: Path, *, is_mapped: bool) -> None:
    with path.open("rb", buffering=0) as file:
        if is_mapped:
            with mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapping:
                assert len(mapping[4096:8192]) == 4096
        else:
            assert len(os.pread(file.fileno(), 4096, 4096)) == 4096


def open_often(mount: Mount, times: int) -> None:
    """Open files that are in memory, then wait until none is any more."""
    paths = [mount.mountpoint / name for name in FILES]
    for number in range(times):
        open_one(paths[number % len(paths)], is_mapped=bool(number % 2))
    assert mount.status()["resident_files"] == len(FILES)
    wait_until(lambda: mount.status()["resident_files"] == 0)


def say(text: str) -> None:
    """For scripts/soak."""
    sys.stdout.write(f"{text}\n")


def test_mounts_leave_nothing(
    owner: Home, cipherdir: Path, place: Path, group: Group | None
) -> None:
    mountpoint, started = place / "mnt", time.monotonic()
    processes: list[dict[str, Process]] = []
    for number in range(MOUNTS):
        with mounted(owner, cipherdir, mountpoint, engine="kernel") as mount:
            for name in FILES:
                open_one(mountpoint / name, is_mapped=bool(number % 2))
            if number in {0, MOUNTS - 1}:
                processes.append(processes_of(mount))
                assert group is None or group.shared_memory >= RESIDENT
            if number % 10 == 5:  # the end of another daemon than the first
                os.kill(mount.pid, signal.SIGKILL)
                open_one(mountpoint / "0.bin", is_mapped=False)
        assert left_of(mountpoint) == []
        mountpoint.rmdir()
    wait_until(lambda: group is None or group.shared_memory == 0)
    first, last = processes
    say(f"{MOUNTS} mounts, {time.monotonic() - started:.0f} s: {first} and {last}")

    check_growth(first, last)


@pytest.mark.slow
def test_opens_leave_nothing(
    owner: Home, cipherdir: Path, place: Path, group: Group | None
) -> None:
    with mounted(owner, cipherdir, place / "mnt", engine="kernel") as mount:
        open_often(mount, OPENS // 2)
        shared, before = group and group.shared_memory, processes_of(mount)
        open_often(mount, OPENS)
        wait_until(lambda: group is None or group.shared_memory == shared)
        after = processes_of(mount)
    say(f"{OPENS} opens: {before} and {after}, {shared} bytes in memory")

    check_growth(before, after)


def check_growth(before: dict[str, Process], after: dict[str, Process]) -> None:
    for name, process in after.items():
        assert process.descriptors == before[name].descriptors
        assert process.memory - before[name].memory < MAX_GROWTH
