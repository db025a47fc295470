"""Files in memory where something goes wrong; no kernel serves them here."""

import dataclasses
import errno
import fcntl
import mmap
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ovfuse.errors import DamagedError, SupersededError
from ovfuse.keeping import NothingKept
from ovfuse.serve.resident import (
    ON_DEMAND,
    ResidentFiles,
    Wanted,
    files,
    memory_filesystem,
)
from ovfuse.serve.resident.budget import Budget
from ovfuse.serve.resident.memory_filesystem import MemoryFilesystem
from tests.support.keeping import Kept
from tests.support.sealed import Publisher, entry_of, opened, pattern, write_files
from tests.support.waiting import wait_until

MiB = 1 << 20
NUMBER, BACKING = 5, 7


@pytest.fixture
def budget() -> Budget:
    return Budget(64 * MiB, None)


@pytest.fixture
def resident(
    budget: Budget, filesystem: MemoryFilesystem, monkeypatch: pytest.MonkeyPatch
) -> Iterator[ResidentFiles]:
    monkeypatch.setattr(files, "register", lambda _connection, _fd: BACKING)
    monkeypatch.setattr(files, "unregister", lambda _connection, _number: None)
    made = ResidentFiles(-1, filesystem, budget, NothingKept())
    yield made
    made.close()


@pytest.mark.usefixtures("filesystem")
def test_what_was_tried_in_vain_leaves_no_descriptor(budget: Budget) -> None:
    """As in a container: it may make a tmpfs, but not have the kernel serve from it."""
    before = os.listdir("/proc/self/fd")

    with Path("/dev/null").open("rb") as null, pytest.raises(OSError, match="ioctl"):
        files.make_resident_files(null.fileno(), budget, NothingKept())

    assert os.listdir("/proc/self/fd") == before


def wanted(fill: files.Fill) -> Wanted:
    return Wanted(NUMBER, MiB, 0, fill, is_worth_it=True)


def fill_with_ones(target: memoryview) -> None:
    target[:] = b"\1" * len(target)


def failing(error: Exception) -> files.Fill:
    def fill(target: memoryview) -> None:
        rest = target[MiB // 2 :]
        fill_with_ones(rest)
        raise error

    return fill


@pytest.mark.parametrize("error", [MemoryError(), OSError(), SupersededError("gone")])
def test_what_cannot_be_in_memory_is_on_demand(
    resident: ResidentFiles, filesystem: MemoryFilesystem, error: Exception
) -> None:
    free = os.fstatvfs(filesystem._fd).f_bfree

    assert resident.open(wanted(failing(error))) == ON_DEMAND
    assert resident.open(wanted(fill_with_ones)) == ON_DEMAND  # the same inode is open
    assert resident.usage() == (0, 0)
    assert os.fstatvfs(filesystem._fd).f_bfree == free
    for _ in range(2):
        resident.release(NUMBER)
    assert resident.open(wanted(fill_with_ones)) == BACKING


def test_damage_is_what_the_open_says(
    resident: ResidentFiles, filesystem: MemoryFilesystem
) -> None:
    free = os.fstatvfs(filesystem._fd).f_bfree

    with pytest.raises(DamagedError, match="flipped"):
        resident.open(wanted(failing(DamagedError("flipped"))))

    assert resident.usage() == (0, 0)
    assert os.fstatvfs(filesystem._fd).f_bfree == free
    assert resident.open(wanted(fill_with_ones)) == BACKING


def test_those_who_open_it_meanwhile_wait_and_fill_it_no_more(
    resident: ResidentFiles,
) -> None:
    fills: list[int] = []
    opened: list[int] = []

    def fill(target: memoryview) -> None:
        fills.append(len(target))
        file = resident._files[NUMBER]
        if len(fills) == 1:
            for thread in threads:
                thread.start()
            wait_until(lambda: file.opens == 1 + len(threads))
        assert opened == []

    threads = [
        threading.Thread(target=lambda: opened.append(resident.open(wanted(fill))))
        for _ in range(4)
    ]
    assert resident.open(wanted(fill)) == BACKING
    for thread in threads:
        thread.join()

    assert opened == [BACKING] * 4
    assert fills == [MiB]
    assert resident.usage() == (1, MiB)


def test_those_who_waited_in_vain_have_it_open_on_demand_at_once(
    resident: ResidentFiles,
) -> None:
    """Else another open would be in memory, and the kernel refuses both together."""
    asleep = threading.Event()
    opened: list[int] = []

    class Settled(threading.Event):
        """Others than who fills it are slow to notice."""

        def wait(self, timeout: float | None = None) -> bool:
            if threading.current_thread() is not threading.main_thread():
                asleep.wait()
            return super().wait(timeout)

    def other() -> None:
        opened.append(resident.open(wanted(fill_with_ones)))

    def fill(_: memoryview) -> None:
        file = resident._files[NUMBER]
        file.settled = Settled()
        waiting.start()
        wait_until(lambda: file.opens == 2)
        raise MemoryError

    waiting = threading.Thread(target=other)
    try:
        assert resident.open(wanted(fill)) == ON_DEMAND
        resident.release(NUMBER)
        assert resident.open(wanted(fill_with_ones)) == ON_DEMAND
    finally:
        asleep.set()
        waiting.join()
    assert opened == [ON_DEMAND]


@pytest.mark.parametrize("fails", [False, True])
def test_closed_while_a_file_is_filled(
    resident: ResidentFiles, budget: Budget, fails: bool
) -> None:
    def fill(target: memoryview) -> None:
        resident.close()
        assert budget.taken == MiB
        fill_with_ones(target)
        if fails:
            raise MemoryError

    before = len(os.listdir("/proc/self/fd"))
    resident.open(wanted(fill))

    assert budget.taken == 0
    assert len(os.listdir("/proc/self/fd")) == before - 1  # the filesystem's


def test_it_is_freed_once_it_is_neither_open_nor_mapped(
    resident: ResidentFiles,
    filesystem: MemoryFilesystem,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(files, "_FREED_AFTER_SECONDS", 0.0)
    monkeypatch.setattr(files, "_LOOK_SECONDS", 0.001)
    free = os.fstatvfs(filesystem._fd).f_bfree
    resident.open(wanted(fill_with_ones))
    resident.open(wanted(fill_with_ones))
    resident.release(NUMBER)
    path = f"/proc/self/fd/{resident._files[NUMBER].fd}"
    with Path(path).open("rb") as file:
        mapping = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
    resident.release(NUMBER)
    looked = resident._files[NUMBER].unused_since

    wait_until(lambda: time.monotonic() > looked + 0.1)
    assert resident.usage() == (1, MiB)
    mapping.close()
    wait_until(lambda: resident.usage() == (0, 0))
    wait_until(lambda: os.fstatvfs(filesystem._fd).f_bfree == free)


def test_without_leases_nothing_stays_for_ever(
    resident: ResidentFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with /proc/sys/fs/leases-enable of 0."""

    def fcntl_(_fd: int, command: int, _argument: int) -> int:
        if command == fcntl.F_SETLEASE:
            raise OSError(errno.EINVAL, "Invalid argument")
        return 0

    monkeypatch.setattr(files, "_FREED_AFTER_SECONDS", 0.0)
    monkeypatch.setattr(files, "_LOOK_SECONDS", 0.001)
    monkeypatch.setattr(fcntl, "fcntl", fcntl_)
    resident.open(wanted(fill_with_ones))
    resident.release(NUMBER)

    wait_until(lambda: resident.usage() == (0, 0))


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_memory_that_ends_while_a_file_is_filled(
    resident: ResidentFiles,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    workers: int,
) -> None:
    """No write may go where there is none: that would be SIGBUS, and end the mount."""
    plain = write_files(tmp_path / "plain", {"f": pattern(7 * MiB)})
    publisher = Publisher.make()
    publisher.seal(plain, tmp_path / "sealed")
    configure = memory_filesystem._configure

    def configure_smaller(context: int, kind: int, key: bytes, value: bytes) -> None:
        configure(context, kind, key, b"5M" if key == b"size" else value)

    monkeypatch.setattr(memory_filesystem, "_configure", configure_smaller)
    small = MemoryFilesystem()
    monkeypatch.setattr(resident, "_filesystem", small)
    errors: list[BaseException] = []
    with opened(tmp_path / "sealed", publisher.identity) as sealing:
        entry = entry_of(sealing, "f")

        def fill(target: memoryview) -> None:
            try:
                sealing.read_file_into(entry, target, workers=workers, check_hash=False)
            except MemoryError as error:
                errors.append(error)
                raise

        asked = dataclasses.replace(wanted(fill), size=7 * MiB)
        assert resident.open(asked) == ON_DEMAND
    assert len(errors) == 1
    found = os.fstatvfs(small._fd)
    assert found.f_bfree == found.f_blocks


@pytest.mark.parametrize("has_lease", [False, True])
def test_successor_goes_on_with_files_and_frees_them(
    filesystem: MemoryFilesystem, monkeypatch: pytest.MonkeyPatch, *, has_lease: bool
) -> None:
    numbers: list[int] = []
    monkeypatch.setattr(files, "register", lambda _connection, _fd: BACKING)
    monkeypatch.setattr(files, "unregister", lambda _, number: numbers.append(number))
    monkeypatch.setattr(files, "_FREED_AFTER_SECONDS", 0.0)
    monkeypatch.setattr(files, "_LOOK_SECONDS", 0.001)
    kept, budget = Kept(), Budget(64 * MiB, None)
    killed = ResidentFiles(-1, filesystem, Budget(64 * MiB, None), kept)
    assert killed.open(wanted(fill_with_ones)) == BACKING
    if has_lease:
        ((_, (fd,), _),) = kept.records.values()
        fcntl.fcntl(fd, fcntl.F_SETSIG, signal.SIGURG)
        os.close(killed._files[NUMBER].fd)
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_WRLCK)

    resident = ResidentFiles(-1, filesystem, budget, kept.successor())
    resident.inherit(BACKING + 2)
    resident.restore(NUMBER, 1)

    assert numbers == [*range(1, BACKING), BACKING + 1]
    assert resident.usage() == (1, MiB)
    assert resident.open(wanted(fill_with_ones)) == BACKING
    for _ in range(2):
        resident.release(NUMBER)
    if not has_lease:
        os.close(killed._files[NUMBER].fd)
    wait_until(lambda: resident.usage() == (0, 0))
    assert budget.taken == 0
    assert numbers[-1] == BACKING
    wait_until(lambda: not kept.records)
    resident.close()


def test_interrupted_lock_leaves_no_empty_file(
    filesystem: MemoryFilesystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A successor would have the kernel serve it, and an app read nothing as all."""
    monkeypatch.setattr(files, "register", lambda _connection, _fd: BACKING)
    monkeypatch.setattr(files, "unregister", lambda _connection, _number: None)
    kept = Kept()
    killed = ResidentFiles(-1, filesystem, Budget(64 * MiB, None), kept)
    assert killed.open(wanted(fill_with_ones)) == BACKING
    killed.release(NUMBER)
    [left] = killed._files.values()
    sizes = []

    def die(_name: str) -> None:
        ((_, (fd,), _),) = kept.records.values()
        sizes.append(os.fstat(fd).st_size)
        raise KeyboardInterrupt

    monkeypatch.setattr(kept, "drop", die)
    with pytest.raises(KeyboardInterrupt):
        killed.lock(force=False)

    assert sizes == [MiB]
    os.close(left.fd)
    killed.close()
    kept.close()


def test_file_that_is_opened_while_the_last_is_freed_stays_kept(
    filesystem: MemoryFilesystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "register", lambda _connection, _fd: BACKING)
    monkeypatch.setattr(files, "unregister", lambda _connection, _number: None)
    monkeypatch.setattr(files, "_FREED_AFTER_SECONDS", 0.0)
    monkeypatch.setattr(files, "_LOOK_SECONDS", 0.001)
    kept = Kept()
    resident = ResidentFiles(-1, filesystem, Budget(64 * MiB, None), kept)
    opened: list[int] = []
    opening = threading.Thread(
        target=lambda: opened.append(resident.open(wanted(fill_with_ones)))
    )

    def drop_late(name: str) -> None:
        if not opening.ident:
            opening.start()
            opening.join(1)  # it may have to wait until this is done
        Kept.drop(kept, name)

    monkeypatch.setattr(kept, "drop", drop_late)
    resident.open(wanted(fill_with_ones))
    resident.release(NUMBER)

    wait_until(lambda: opened == [BACKING])
    assert list(kept.records) == [f"resident/{NUMBER:x}"]
    resident.close()
    kept.close()
