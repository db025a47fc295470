"""Mounts whose daemon is killed go on: every byte right, no error, nothing left behind.

Fifteen kills of each kind of mount here; scripts/soak makes more.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.mount import survival_reader
from tests.mount.conftest import Sealed
from tests.support.killing import child_of
from tests.support.mounting import Home, Mount, mounted, succeed
from tests.support.sealed import pattern, write_files
from tests.support.waiting import wait_until

pytestmark = pytest.mark.fuse

KILLS = int(os.environ.get("OVFUSE_SURVIVED_KILLS", "15"))
PAUSE_SECONDS = 0.2
"""Between the first answer of a daemon and its end."""
OFTEN = 3
"""So many kills on, every reader has come further."""
MiB = 1 << 20
FILES = {
    "a.bin": pattern(2 * MiB + 4321),
    "b.bin": pattern(MiB),
    "sub/c.blob": pattern(MiB + 1),
    "sub/empty.txt": b"",
    "sub/small.txt": pattern(10_000),
    **{f"many/{number:03}": b"%d" % number for number in range(100)},
}
KINDS = (
    *("whole", "mapped", "mapped", "listed", "looked-at"),
    *("by-descriptor", "held-open"),
)
IR = (
    "import sys, numpy, openvino as ov\n"
    "from openvino import opset13 as op\n"
    "x = op.parameter([1, 4], numpy.float32)\n"
    "w = op.constant(numpy.full((1, 4), 3.0, numpy.float32))\n"
    "ov.save_model(ov.Model([op.add(x, w)], [x], 'm'), sys.argv[1],"
    " compress_to_fp16=False)\n"
)


@dataclass(frozen=True)
class Survivor:
    """A mount of the kernel engine, and its keeper."""

    mount: Mount
    keeper: int

    @property
    def daemon(self) -> int:
        """The daemon, of this moment; waits until there is one."""
        return self.other_than(None)

    def other_than(self, before: int | None) -> int:
        """The daemon, once it is another one."""
        found: list[int] = []

        def is_there() -> bool:
            found.extend(filter(None, [child_of(self.keeper)]))
            return bool(found) and found[-1] != before

        wait_until(is_there)
        return found[-1]

    def kill_and_wait(self, number: int = signal.SIGKILL) -> None:
        """End the daemon, and wait until another one says that it serves."""
        before = self.daemon
        os.kill(before, number)
        wait_until(lambda: self._serving() not in (None, before))

    def _serving(self) -> int | None:
        found = self.mount.status()
        return found["pid"] if found["state"] == "serving" else None


@contextmanager
def surviving(
    home: Home, cipherdir: Path, mountpoint: Path, *options: str
) -> Iterator[Survivor]:
    """Mount with the kernel engine; at the end nothing of it is left."""
    words = [word for option in options for word in ("-o", option)]
    with mounted(home, cipherdir, mountpoint, *words, engine="kernel") as mount:
        keeper = mount.status()["keeper"]
        assert isinstance(keeper, int)
        yield Survivor(mount, keeper)


# Again and again


@pytest.fixture(scope="module")
def plain(shared: Path) -> Path:
    plain = write_files(shared / "plain" / "survived", FILES)
    (plain / "ir").mkdir()
    ir = plain / "ir/model.xml"
    subprocess.run([sys.executable, "-c", IR, ir], check=True)
    return plain


@pytest.fixture(scope="module")
def survived(shared: Path, publisher: Home, plain: Path) -> Sealed:
    """A sealed model with large files, many files, and one for OpenVINO."""
    succeed(publisher, "encrypt", plain, shared / "survived")
    return Sealed(plain=plain, cipherdir=shared / "survived")


@dataclass(frozen=True)
class Reading:
    """A process that reads, and what it says of its progress."""

    kind: str
    process: subprocess.Popen[bytes]
    progress: Path

    @property
    def rounds(self) -> int:
        """How often it has read all; it must be at work."""
        assert self.process.poll() is None, (self.kind, self.process.communicate())
        if not self.progress.exists():
            return 0
        return int.from_bytes(self.progress.read_bytes(), "big")


@contextmanager
def reading(
    home: Home, kind: str, top: Path, plain: Path, place: Path
) -> Iterator[Reading]:
    """Start a reader; at the end it must have seen nothing wrong."""
    script = place / f"{kind}.py"
    if not script.exists():
        script.write_text(Path(survival_reader.__file__).read_text())
    python = [os.path.realpath(sys.executable), "-I"]
    if kind == "inferred":
        python = [sys.executable]
    progress = place / f"progress-{kind}-{time.monotonic_ns()}"
    process = subprocess.Popen(
        [*python, f"{script}", kind, f"{top}", f"{plain}", f"{progress}"],
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        user=home.uid if home.is_other else None,
        group=home.uid if home.is_other else None,
        extra_groups=[] if home.is_other else None,
    )
    try:
        yield Reading(kind, process, progress)
        _, errors = process.communicate(timeout=30)
        assert process.returncode == 0, (kind, errors.decode())
    finally:
        process.kill()
        process.communicate()


def wait_for_progress(readings: list[Reading], *, of: int) -> None:
    """Wait until so many of them have come two rounds further: one was asked for."""
    before = [reading.rounds for reading in readings]

    def progress() -> int:
        pairs = zip(readings, before, strict=True)
        return sum(reading.rounds >= rounds + 2 for reading, rounds in pairs)

    wait_until(lambda: progress() >= of)


def kill_again_and_again(survivor: Survivor, readings: list[Reading]) -> None:
    """Kill each daemon soon after it has answered; all readers must come further."""
    wait_for_progress(readings, of=len(readings))
    for number in range(1, KILLS + 1):
        time.sleep(PAUSE_SECONDS)
        before = survivor.daemon
        os.kill(before, signal.SIGKILL)
        survivor.other_than(before)
        everybody = number % OFTEN == 0 or number == KILLS
        wait_for_progress(readings, of=len(readings) if everybody else 1)


def read_over_kills(
    home: Home, model: Sealed, place: Path, kinds: tuple[str, ...], *options: str
) -> None:
    mountpoint, log = place / "mnt", place / "log"
    with surviving(
        home, model.cipherdir, mountpoint, f"log={log}", *options
    ) as survivor:
        with ExitStack() as stack:
            readings = [
                stack.enter_context(reading(home, kind, mountpoint, model.plain, place))
                for kind in kinds
            ]
            kill_again_and_again(survivor, readings)
        assert survivor.mount.status()["failed_reads"] == 0
        lines = log.read_text().splitlines()
        unusual = [line for line in lines if " INFO " not in line]
        assert len(unusual) == KILLS
        assert all("another daemon serves on" in line for line in unusual)


@pytest.mark.openvino
@pytest.mark.parametrize("choice", ["never", "auto", "always"])
def test_readers_notice_no_kill(
    publisher: Home, survived: Sealed, scratch: Path, choice: str
) -> None:
    kinds = (*KINDS, "inferred")
    read_over_kills(publisher, survived, scratch, kinds, f"resident={choice}")


def test_readers_of_an_ordinary_users_mount_notice_no_kill(
    user: Home, plain: Path
) -> None:
    cipherdir = user.directory / "sealed"
    succeed(user, "keygen")
    succeed(user, "encrypt", plain, cipherdir)
    model = Sealed(plain=plain, cipherdir=cipherdir)
    read_over_kills(user, model, user.directory, KINDS, "resident=never")
