"""What files in memory are made of: a tmpfs that nobody sees, a budget, a choice."""

import ctypes
import os
import resource
from pathlib import Path

import pytest

from ovfuse.serve.resident import available, budget
from ovfuse.serve.resident.budget import Budget
from ovfuse.serve.resident.memory_filesystem import MemoryFilesystem
from ovfuse.serve.resident.policy import is_worth_it
from tests.support.sealed import write_files

MOVE_MOUNT, F_EMPTY_PATH, AT_FDCWD, DETACH = 429, 4, -100, 2
MiB = 1 << 20


def test_it_never_swaps_and_is_nobody_elses(
    filesystem: MemoryFilesystem, tmp_path: Path
) -> None:
    """Give it a place, which ovfuse never does, so that the kernel tells of it."""
    libc = ctypes.CDLL(None, use_errno=True)
    place = os.fsencode(tmp_path)
    arguments = (MOVE_MOUNT, filesystem._fd, b"", AT_FDCWD, place, F_EMPTY_PATH)
    assert libc.syscall(*arguments) == 0, os.strerror(ctypes.get_errno())
    try:
        (line,) = (
            line
            for line in Path("/proc/self/mountinfo").read_text().splitlines()
            if line.split()[4] == os.fspath(tmp_path)
        )
        attributes, options = line.split()[5], line.split()[-1].split(",")
        assert {"nosuid", "nodev", "noexec"} <= set(attributes.split(","))
        assert {"noswap", "huge=within_size", "mode=700"} <= set(options)
    finally:
        assert libc.umount2(place, DETACH) == 0


def test_files_have_no_name_and_take_no_memory_yet(
    filesystem: MemoryFilesystem,
) -> None:
    fd = filesystem.new_file(3 * MiB)
    try:
        found = os.fstat(fd)
        assert (found.st_size, found.st_blocks, found.st_nlink) == (3 * MiB, 0, 0)
        assert os.read(fd, 10) == bytes(10)
    finally:
        os.close(fd)


def test_swap_without_the_flag_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can make one")
    module = "ovfuse.serve.resident.memory_filesystem"
    monkeypatch.setattr(f"{module}.may_swap", lambda: True)
    monkeypatch.setattr(f"{module}._SET_FLAG", 99)  # as a kernel that does not know it

    with pytest.raises(OSError, match="could reach the swap"):
        MemoryFilesystem()


def test_budget_is_for_all_and_for_each() -> None:
    taken = Budget(10 * MiB, 6 * MiB)

    assert taken.take(0, 6 * MiB)
    assert not taken.take(0, 1)
    assert not taken.take(1, 4 * MiB + 1)
    assert taken.take(1, 4 * MiB)
    assert taken.taken == 10 * MiB
    taken.give_back(0, 6 * MiB)
    assert taken.take(1, 2 * MiB)
    assert not taken.take(1, 1)


def test_budget_counts_what_is_being_filled_as_well(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(budget, "available", lambda: 5 * MiB)
    taken = Budget(10 * MiB, None)

    assert taken.take(0, 3 * MiB)
    assert not taken.take(0, 3 * MiB)
    taken.filled(3 * MiB)
    assert taken.take(0, 3 * MiB)


def test_budget_leaves_descriptors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (12, 12))
    taken = Budget(10 * MiB, None)

    assert [taken.take(0, 1) for _ in range(4)] == [True, True, True, False]
    taken.give_back(0, 1)
    assert taken.take(0, 1)


def write_group(place: Path, limit: str, current: int, cached: int) -> None:
    write_files(
        place,
        {
            "memory.max": f"{limit}\n".encode(),
            "memory.current": f"{current}\n".encode(),
            "memory.stat": f"anon 7\ninactive_file {cached}\nactive_file 0\n".encode(),
        },
    )


@pytest.fixture
def groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The place of all control groups, this process being in `a/b`."""
    write_files(tmp_path, {"self": b"1:cpu:/x\n0::/a/b\n"})
    monkeypatch.setattr(available, "_GROUP", tmp_path / "self")
    monkeypatch.setattr(available, "_GROUPS", tmp_path / "groups")
    return tmp_path / "groups"


def test_available_is_what_the_closest_limit_leaves(groups: Path) -> None:
    without = available.available()
    write_group(groups / "a", f"{16 * MiB}", 9 * MiB, 4 * MiB)
    write_group(groups / "a/b", "max", 5 * MiB, 0)
    write_group(groups / "c", "1", 1, 0)

    assert without > 16 * MiB
    assert available.available() == 16 * MiB - MiB - (9 - 4) * MiB


def test_nothing_is_available_where_that_cannot_be_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(available, "_MEMINFO", tmp_path / "missing")

    assert available.available() == 0
    assert not Budget(None, None).take(0, 1)


def test_budget_leaves_the_machine_something() -> None:
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")

    assert not Budget(2 * machine, None).take(0, machine * 15 // 16 + 1)
    assert not Budget(None, None).take(0, machine // 2 + 1)
    assert Budget(None, None).take(0, MiB)


@pytest.mark.parametrize(
    ("choice", "path", "size", "expected"),
    [
        ("auto", b"/m/model.bin", MiB, True),
        ("auto", b"/m/model.bin", MiB - 1, False),
        ("auto", b"/model.onnx", 2 * MiB, True),
        ("auto", b"/model.xml", 20 * MiB, False),
        ("always", b"/model.xml", 1, True),
        ("always", b"/empty", 0, False),
        ("never", b"/model.bin", MiB, False),
    ],
)
def test_choice(choice: str, path: bytes, size: int, expected: bool) -> None:
    assert is_worth_it(choice, path, size) is expected
