"""Mounts whose daemon is killed go on: every byte right, no error, nothing left behind.

Fifteen kills of each kind of mount here; scripts/soak makes more.
"""

import errno
import mmap
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from ovfuse.serve.control import ask, runtime_directory, socket_path
from tests.mount import survival_reader
from tests.mount.conftest import Sealed
from tests.mount.resealing import FILES as SEALED
from tests.mount.resealing import Resealed, content_of, version_of
from tests.support.killing import child_of, kill_for_good
from tests.support.mounting import (
    Home,
    Mount,
    daemons_of,
    is_gone,
    is_mounted,
    mounted,
    run_ovfuse,
    status_of,
    succeed,
)
from tests.support.prompts import type_into
from tests.support.sealed import pattern, write_files
from tests.support.users import needs_root
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
        if os.geteuid() == 0:  # the command takes long
            path = socket_path(self.mount.mountpoint, runtime_directory())
            found = ask(path, os.geteuid()) or {}
            return found["pid"] if found.get("ready") else None
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


def unusual(log: Path) -> list[str]:
    """Return what a mount logged of what does not happen each day."""
    return [line for line in log.read_text().splitlines() if " INFO " not in line]


def has_logged(log: Path, count: int) -> bool:
    return len(unusual(log)) >= count


def kill_again_and_again(
    survivor: Survivor, readings: list[Reading], log: Path
) -> None:
    """Kill each daemon soon after it has answered; all readers must come further."""
    wait_for_progress(readings, of=len(readings))
    for number in range(1, KILLS + 1):
        time.sleep(PAUSE_SECONDS)
        before = survivor.daemon
        os.kill(before, signal.SIGKILL)
        wait_until(partial(has_logged, log, number))
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
            kill_again_and_again(survivor, readings, log)
        assert survivor.mount.status()["failed_reads"] == 0
        lines = unusual(log)
        assert len(lines) == KILLS
        assert all("another daemon serves on" in line for line in lines)


@pytest.mark.openvino
@pytest.mark.parametrize("choice", ["never", "auto", "always"])
def test_readers_notice_no_kill(
    publisher: Home, survived: Sealed, scratch: Path, choice: str
) -> None:
    if choice == "always" and os.geteuid() != 0:
        pytest.skip("only root may have the kernel serve files from memory")
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


@contextmanager
def ahead_of(pid: int) -> Iterator[None]:
    """Let no thread of a process run before this one sleeps."""
    cpus = os.sched_getaffinity(0)
    one = {min(cpus)}
    for thread in os.listdir(f"/proc/{pid}/task"):
        with suppress(ProcessLookupError):  # it has ended
            os.sched_setaffinity(int(thread), one)
    os.sched_setaffinity(0, one)
    os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    try:
        yield
    finally:
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
        os.sched_setaffinity(0, cpus)


@needs_root
def test_request_that_a_dying_daemon_takes_is_not_lost(
    publisher: Home, survived: Sealed, mountpoint: Path
) -> None:
    """Its threads take a request before they die of what came before it."""
    with surviving(publisher, survived.cipherdir, mountpoint) as survivor:
        for number in range(5):
            daemon = survivor.daemon
            with ahead_of(daemon):
                os.kill(daemon, signal.SIGKILL)
                read = (mountpoint / f"many/{number:03}").read_bytes()
            assert read == b"%d" % number
            survivor.kill_and_wait()


# What is held


@pytest.fixture
def single(publisher: Home, scratch: Path) -> Resealed:
    return Resealed(publisher, scratch / "sealed", scratch / "plain").seal()


@pytest.fixture
def in_tree(publisher: Home, scratch: Path) -> Resealed:
    return Resealed(publisher, scratch / "tree/org/m", scratch / "plain-m").seal()


@contextmanager
def opened(path: Path | str, *, dir_fd: int | None = None) -> Iterator[int]:
    fd = os.open(path, os.O_RDONLY, dir_fd=dir_fd)
    try:
        yield fd
    finally:
        with suppress(OSError):  # the mount has ended
            os.close(fd)


def rest_of(fd: int) -> bytes:
    """Return what follows the first 8 bytes, asked for anew."""
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    return os.pread(fd, 4 * MiB, 8)


def shows(directory: Path, version: int) -> bool:
    """Tell whether every file is of that version."""
    return {version_of((directory / name).read_bytes()) for name in SEALED} == {version}


@pytest.mark.parametrize("choice", ["never", "auto"])
def test_replaced_sealing_is_read_on_after_kills(
    publisher: Home, single: Resealed, mountpoint: Path, choice: str
) -> None:
    with (
        surviving(
            publisher, single.cipherdir, mountpoint, f"resident={choice}"
        ) as survivor,
        opened(mountpoint / "model.bin") as held,
        opened(mountpoint / "sub/labels.txt") as other,
    ):
        assert os.pread(held, 8, 0) == content_of(1, 8)
        for _ in range(2):  # the second removes the first
            single.seal()
        wait_until(lambda: shows(mountpoint, 3))
        for version in (3, 3, 4):
            if version > single.version:
                single.seal()
            survivor.kill_and_wait()

            assert rest_of(held) == content_of(1, SEALED["model.bin"])[8:]
            assert rest_of(other) == content_of(1, SEALED["sub/labels.txt"])[8:]
            wait_until(lambda: shows(mountpoint, single.version))
            assert shows(mountpoint / f"@{version}", version)


def test_pruned_sealing_and_mapping_outlive_kills(
    publisher: Home, single: Resealed, mountpoint: Path
) -> None:
    size = SEALED["model.bin"]
    with surviving(
        publisher, single.cipherdir, mountpoint, "resident=never"
    ) as survivor:
        with opened(mountpoint / "model.bin") as fd:
            mapping = mmap.mmap(fd, 0, prot=mmap.PROT_READ)
        single.seal()
        wait_until(lambda: shows(mountpoint, 2))
        succeed(publisher, "prune", single.cipherdir)
        survivor.kill_and_wait()
        with mapping:
            assert mapping[:] == content_of(1, size)
        wait_until(lambda: shows(mountpoint, 2))


def test_passphrase_is_asked_for_once(
    scratch: Path, mountpoint: Path, plain: Path
) -> None:
    home, cipherdir = Home(directory=scratch / "home"), scratch / "sealed"
    answers = ["correct horse"] * 2
    typed = type_into(home, "encrypt", "-p", plain, cipherdir, answers=answers)
    assert typed.code == 0, typed.stderr
    command = ("mount", "-o", "engine=kernel,allow_untrusted", cipherdir, mountpoint)
    typed = type_into(home, *command, answers=answers[:1])
    assert typed.code == 0, typed.stderr
    found = status_of(home, mountpoint, "serving")
    assert found is not None
    survivor = Survivor(Mount(home=home, mountpoint=mountpoint), found["keeper"])
    try:
        with opened(mountpoint / "a.bin") as held:
            for _ in range(2):
                survivor.kill_and_wait()
                assert rest_of(held) == FILES["a.bin"][8:]
                assert (mountpoint / "b.bin").read_bytes() == FILES["b.bin"]
    finally:
        succeed(home, "unmount", mountpoint)


def test_mount_outlives_its_identity(
    publisher: Home, survived: Sealed, scratch: Path, mountpoint: Path
) -> None:
    sockets = shutil.ignore_patterns("*.sock")
    shutil.copytree(publisher.directory, scratch / "home", ignore=sockets)
    home = Home(directory=scratch / "home")
    with surviving(home, survived.cipherdir, mountpoint) as survivor:
        shutil.rmtree(home.config)
        survivor.kill_and_wait()

        assert (mountpoint / "a.bin").read_bytes() == FILES["a.bin"]
        assert survivor.mount.model()["state"] == "unlocked"


def test_paths_may_be_relative(
    publisher: Home, single: Resealed, mountpoint: Path, scratch: Path
) -> None:
    """A daemon's working directory is `/`: its successors find all the same."""
    keys = scratch / "keys"
    shutil.copytree(publisher.config, keys)
    home = Home(directory=scratch / "home")
    words = ("-i", "keys/identity.txt", "--verify-key", "keys/signing_key.pub")
    command = ("mount", "-o", "engine=kernel", *words, "sealed", "mnt")
    assert run_ovfuse(home, *command, cwd=scratch).returncode == 0
    found = status_of(home, mountpoint, "serving")
    assert found is not None
    survivor = Survivor(Mount(home=home, mountpoint=mountpoint), found["keeper"])
    try:
        survivor.kill_and_wait()
        single.seal()
        wait_until(lambda: shows(mountpoint, 2))
    finally:
        succeed(home, "unmount", mountpoint)


@contextmanager
def more_descriptors(count: int) -> Iterator[None]:
    """Let this process have so many; a soft limit is often 1,024."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(count, before[0]), before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_more_files_may_be_open_than_select_can_wait_for(
    publisher: Home, scratch: Path, mountpoint: Path
) -> None:
    """The keeper has each of them open, and then numbers above 1023."""
    files = {f"{n:04}": b"%d" % n + pattern(20_000) for n in range(1_100)}
    write_files(scratch / "plain", files)
    succeed(publisher, "encrypt", scratch / "plain", scratch / "sealed")
    log = scratch / "log"
    with (
        more_descriptors(4_096),
        surviving(
            publisher, scratch / "sealed", mountpoint, f"log={log}", "resident=never"
        ) as survivor,
        ExitStack() as stack,
    ):
        held = [stack.enter_context(opened(mountpoint / name)) for name in files]
        survivor.kill_and_wait()
        assert [rest_of(fd) for fd in held] == [files[name][8:] for name in files]
        succeed(publisher, "reload", mountpoint)
        assert [rest_of(fd) for fd in held] == [files[name][8:] for name in files]
    killed, reloaded = unusual(log)
    assert "the last got SIGKILL" in killed
    assert "reloaded" in reloaded


# In a tree


def test_directory_of_a_model_stays_on_its_sealing(
    publisher: Home, in_tree: Resealed, scratch: Path, mountpoint: Path
) -> None:
    """Of one that was locked when it was opened, and of one that was not."""
    Resealed(publisher, scratch / "tree/first", scratch / "plain-first").seal()
    with (
        surviving(publisher, scratch / "tree", mountpoint) as survivor,
        opened(mountpoint / "org/m") as locked,
        opened(mountpoint / "org/m/sub") as sub,
    ):
        process = subprocess.Popen(
            ["sh", "-c", "read line && cat model.bin"],
            cwd=mountpoint / "org/m",
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        in_tree.seal()
        wait_until(lambda: shows(mountpoint / "org/m", 2))
        for _ in range(2):
            survivor.kill_and_wait()
            with opened("model.bin", dir_fd=locked) as fd:
                assert rest_of(fd) == content_of(1, SEALED["model.bin"])[8:]
            with opened("labels.txt", dir_fd=sub) as fd:
                assert version_of(os.read(fd, MiB)) == 1
            assert sorted(os.listdir(locked)) == ["model.bin", "model.xml", "sub"]
            assert shows(mountpoint / "org/m", 2)
        assert version_of(process.communicate(b"\n", timeout=30)[0]) == 1


def test_directory_is_listed_over_kills(
    publisher: Home, survived: Sealed, mountpoint: Path
) -> None:
    names = sorted(os.listdir(survived.plain / "many"))
    with surviving(publisher, survived.cipherdir, mountpoint) as survivor:
        with os.scandir(mountpoint / "many") as entries:
            found = [next(entries).name]
            survivor.kill_and_wait()
            assert sorted(os.listdir(mountpoint / "many")) == names
            found += [entry.name for entry in entries]
        assert sorted(found) == names
        descriptors = [os.open(mountpoint / "many", os.O_RDONLY) for _ in range(3)]
        listed = [os.listdir(descriptors[0])]
        survivor.kill_and_wait()
        os.close(descriptors.pop())
        descriptors.append(os.open(mountpoint / "many", os.O_RDONLY))
        for descriptor in descriptors:
            os.lseek(descriptor, 0, os.SEEK_SET)
            listed.append(os.listdir(descriptor))
            os.close(descriptor)
        assert [sorted(found) for found in listed] == [names] * 4


# The end


def is_over(survivor: Survivor) -> bool:
    """Tell whether nothing is left of a mount."""
    mountpoint = survivor.mount.mountpoint
    return not is_mounted(mountpoint) and not daemons_of(mountpoint)


def wait_for_end(survivor: Survivor) -> None:
    wait_until(lambda: is_over(survivor))
    survivor.mount.ended = True
    path = socket_path(survivor.mount.mountpoint, runtime_directory())
    assert not path.exists()


@pytest.mark.parametrize(
    "number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP]
)
def test_end_of_the_keeper_is_a_clean_end(
    publisher: Home, survived: Sealed, mountpoint: Path, number: int
) -> None:
    with surviving(publisher, survived.cipherdir, mountpoint) as survivor:
        survivor.kill_and_wait()
        with opened(mountpoint / "a.bin"):
            os.kill(survivor.keeper, number)
            wait_for_end(survivor)


def test_stop_is_not_lost_while_there_is_no_daemon(
    publisher: Home, survived: Sealed, mountpoint: Path
) -> None:
    """It dies of something else before it has unmounted."""
    with surviving(publisher, survived.cipherdir, mountpoint) as survivor:
        daemon = survivor.daemon
        os.kill(daemon, signal.SIGSTOP)
        os.kill(survivor.keeper, signal.SIGTERM)
        os.kill(daemon, signal.SIGKILL)
        wait_for_end(survivor)


def test_stop_comes_in_between(
    publisher: Home, survived: Sealed, mountpoint: Path
) -> None:
    with surviving(publisher, survived.cipherdir, mountpoint) as survivor:
        os.kill(survivor.keeper, signal.SIGSTOP)
        os.kill(survivor.daemon, signal.SIGKILL)
        os.kill(survivor.keeper, signal.SIGTERM)
        os.kill(survivor.keeper, signal.SIGCONT)
        wait_for_end(survivor)


def test_stale_mount_fails_at_once_and_is_unmounted(
    publisher: Home, survived: Sealed, mountpoint: Path
) -> None:
    with surviving(publisher, survived.cipherdir, mountpoint) as survivor:
        with opened(mountpoint / "sub/small.txt") as held:
            survivor.kill_and_wait()
            kill_for_good(survivor.daemon)
            wait_until(lambda: survivor.mount.status()["state"] == "stale")
            for read in (
                (mountpoint / "b.bin").read_bytes,
                lambda: rest_of(held),
                lambda: os.listdir(mountpoint),
            ):
                with pytest.raises(OSError, match="not connected") as raised:
                    read()
                assert raised.value.errno == errno.ENOTCONN
        found = survivor.mount.status()
        assert (found["state"], found["pid"], found["keeper"]) == ("stale", None, None)
        succeed(publisher, "unmount", mountpoint)
        wait_for_end(survivor)


def test_interrupt_in_a_terminal_ends_keeper_and_daemon(
    publisher: Home, survived: Sealed, mountpoint: Path
) -> None:
    """It goes to all processes of the terminal's foreground."""
    mountpoint.mkdir(exist_ok=True)
    command = (*publisher.program, "mount", "-f", "-o", "engine=kernel")
    process = subprocess.Popen(
        [*command, survived.cipherdir, mountpoint],
        env=publisher.environment,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    wait_until(lambda: status_of(publisher, mountpoint, "serving"))
    survivor = Survivor(Mount(home=publisher, mountpoint=mountpoint), process.pid)
    survivor.kill_and_wait()

    os.killpg(process.pid, signal.SIGINT)

    _, said = process.communicate(timeout=30)
    assert process.returncode == 0, said
    assert b"Traceback" not in said
    wait_for_end(survivor)


def test_detached_mount_goes_on_and_touches_no_other(
    publisher: Home, survived: Sealed, mountpoint: Path
) -> None:
    options = "resident=never"
    with surviving(publisher, survived.cipherdir, mountpoint, options) as first:
        daemon, held = first.daemon, os.open(mountpoint / "a.bin", os.O_RDONLY)
        succeed(publisher, "unmount", "--lazy", mountpoint)
        first.mount.ended = True
        with surviving(publisher, survived.cipherdir, mountpoint) as second:
            for _ in range(2):
                os.kill(daemon, signal.SIGKILL)
                daemon = first.other_than(daemon)
                assert rest_of(held) == FILES["a.bin"][8:]
            os.kill(first.keeper, signal.SIGTERM)
            wait_until(lambda: is_gone(first.keeper))
            assert second.mount.status()["state"] == "serving"
            assert (mountpoint / "b.bin").read_bytes() == FILES["b.bin"]
            with pytest.raises(OSError, match="not connected"):
                rest_of(held)
            os.close(held)


# What is left


KILLS_FOR_A_LEAK = 30
SLACK = 20
"""A leak would leave one for each kill or opening, and six for each sealing. But where
a daemon is killed while it takes back what the kernel forgot, a sealing stays open."""


def descriptors(survivor: Survivor) -> int:
    """Return how many keeper and daemon have."""
    pids = (survivor.keeper, survivor.daemon)
    return sum(len(os.listdir(f"/proc/{pid}/fd")) for pid in pids)


@needs_root
@pytest.mark.parametrize("choice", ["never", "auto"])
def test_kills_leave_no_descriptor(
    publisher: Home, single: Resealed, mountpoint: Path, choice: str
) -> None:
    with surviving(
        publisher, single.cipherdir, mountpoint, f"resident={choice}"
    ) as survivor:
        survivor.kill_and_wait()
        assert shows(mountpoint, 1)
        before = descriptors(survivor)
        for number in range(KILLS_FOR_A_LEAK):
            with opened(mountpoint / "model.bin"), opened(mountpoint / "model.xml"):
                if number % 5 == 0:
                    single.seal()
                    wait_until(lambda: shows(mountpoint, single.version))
                daemon = survivor.daemon
                os.kill(daemon, signal.SIGKILL)
                survivor.other_than(daemon)
                assert shows(mountpoint, single.version)

        def is_settled() -> bool:
            # Each change is an occasion to look.
            (single.cipherdir / "x").write_bytes(b"")
            return descriptors(survivor) <= before + SLACK

        wait_until(is_settled)
        assert shows(mountpoint, single.version)
