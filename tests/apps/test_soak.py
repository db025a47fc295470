"""A mount under load for long: right bytes, bounded memory, no descriptor left.

A minute here; scripts/soak does the same for as long as one likes.
"""

import os
import re
import secrets
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.apps import hammer
from tests.support.mounting import (
    STAYING_ENGINES,
    Home,
    Mount,
    mounted,
    succeed,
)
from tests.support.users import open_directory
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.fuse, pytest.mark.slow]

SECONDS = float(os.environ.get("OVFUSE_SOAK_SECONDS", "60"))
KiB = 1 << 10
MiB = 1 << 20
GiB = 1 << 30

READERS = 8
STREAMS = 4
STREAM_SIZE = 64 * MiB
STREAM_PASSES = 16
STREAMED = STREAMS * STREAM_SIZE * STREAM_PASSES
OPENS = 10_000

CHUNK, BLOCK = 16384, 65536
SIZES = (
    *(0, 1, 4095, 4096, 4097),
    *(CHUNK - 1, CHUNK, CHUNK + 1, BLOCK - 1, BLOCK, BLOCK + 1),
    *(3 * BLOCK + 7, MiB, 5 * MiB + 4321),
)

MAX_RESIDENT = 100 * MiB
MAX_GROWTH = 8 * MiB  # less than a KiB for each open; buffers of more threads are some


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    """Removed at the end, unlike pytest's own: it becomes large."""
    with open_directory() as directory:
        yield directory


@pytest.fixture(scope="module")
def plain(place: Path) -> Path:
    """Many small files, and a large one for each stream."""
    directory = place / "plain"
    for number, size in enumerate(SIZES):
        path = directory / f"part{number % 3}" / f"{size}.bin"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(os.urandom(size))
    (directory / "streams").mkdir()
    for number in range(STREAMS):
        (directory / "streams" / f"{number}").write_bytes(os.urandom(STREAM_SIZE))
    return directory


@pytest.fixture(scope="module")
def sealed(home: Home, place: Path, plain: Path) -> Path:
    succeed(home, "encrypt", plain, place / "sealed")
    return place / "sealed"


@pytest.fixture
def mount(home: Home, place: Path, sealed: Path, engine: str) -> Iterator[Mount]:
    """A fresh daemon for each test: its memory is measured."""
    if os.geteuid() != 0:
        pytest.skip("only root can look into a daemon that refuses it")
    with mounted(home, sealed, place / "mnt", engine=engine) as mount:
        if engine not in STAYING_ENGINES:
            wait_until(lambda: is_watching(mount))
        yield mount
        assert mount.status()["failed_reads"] == 0


def is_watching(mount: Mount) -> bool:
    """Tell whether the daemon has all that it needs to notice changes."""
    directory = Path(f"/proc/{mount.pid}")
    for descriptor in (directory / "fd").iterdir():
        with suppress(FileNotFoundError):
            if f"{descriptor.readlink()}" == "anon_inode:inotify":
                info = (directory / "fdinfo" / descriptor.name).read_text()
                return "inotify wd:" in info
    return False


def start(*arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, hammer.__file__, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(processes: list[subprocess.Popen[str]]) -> list[str]:
    """Wait for all, and return what they said; all must have seen the right bytes."""
    said = [process.communicate() for process in processes]
    codes = [process.returncode for process in processes]
    assert codes == [0] * len(codes), "".join(errors for _, errors in said)
    return [output for output, _ in said]


def memory(mount: Mount, what: str) -> int:
    """Return VmRSS or VmHWM of the daemon, in bytes."""
    status = Path(f"/proc/{mount.pid}/status").read_text()
    (found,) = re.findall(rf"^{what}:\s*(\d+) kB$", status, re.MULTILINE)
    return int(found) * KiB


def bytes_read_by(mount: Mount) -> int:
    """Return what the daemon has read of its objects."""
    (found,) = re.findall(
        r"^rchar: (\d+)$", Path(f"/proc/{mount.pid}/io").read_text(), re.MULTILINE
    )
    return int(found)


def descriptors(mount: Mount) -> int:
    return len(list(Path(f"/proc/{mount.pid}/fd").iterdir()))


def report(mount: Mount, text: str) -> None:
    """Say what was measured, for scripts/soak."""
    peak, now = (memory(mount, what) / MiB for what in ("VmHWM", "VmRSS"))
    sys.stdout.write(f"{text}; daemon: peak {peak:.1f} MiB, now {now:.1f} MiB\n")


def test_readers_at_random_see_only_right_bytes(mount: Mount, plain: Path) -> None:
    before = descriptors(mount)
    seeds = [secrets.randbits(64) for _ in range(READERS)]
    arguments = ("random", plain, mount.mountpoint)
    processes = [start(*arguments, seed, SECONDS) for seed in seeds]
    done = [[int(word) for word in line.split()[::2]] for line in finish(processes)]
    actions, read = (sum(numbers) for numbers in zip(*done, strict=True))
    served = bytes_read_by(mount)
    report(
        mount,
        f"{READERS} readers at random for {SECONDS:.0f} s: {actions} actions, "
        f"{read / GiB:.1f} GiB compared, {served / GiB:.1f} GiB read by the daemon",
    )

    assert all(count > SECONDS for count, _ in done)
    wait_until(lambda: descriptors(mount) == before)
    assert memory(mount, "VmHWM") < MAX_RESIDENT


def test_streams_need_little_memory(mount: Mount, plain: Path) -> None:
    before = bytes_read_by(mount)
    processes = [
        start(
            *("stream", plain / "streams" / f"{number}"),
            *(mount.mountpoint / "streams" / f"{number}", STREAM_PASSES),
        )
        for number in range(STREAMS)
    ]
    started = time.monotonic()
    finish(processes)
    rate = STREAMED / MiB / (time.monotonic() - started)
    report(mount, f"{STREAMS} streams, {STREAMED / GiB:.0f} GiB: {rate:.0f} MiB/s")

    assert bytes_read_by(mount) - before > STREAMED
    assert memory(mount, "VmHWM") < MAX_RESIDENT


def test_opens_leave_nothing(mount: Mount) -> None:
    before = descriptors(mount)
    finish([start("open", mount.mountpoint, OPENS // 2)])
    resident = memory(mount, "VmRSS")
    finish([start("open", mount.mountpoint, OPENS)])

    wait_until(lambda: descriptors(mount) == before)
    report(mount, f"{OPENS} opens: {before} descriptors before and after")
    assert memory(mount, "VmRSS") - resident < MAX_GROWTH
