"""What the kernel swaps out while a mount is in use: nothing of it.

A real swap file, and a control group from which all memory is taken again and again.
Memory that nobody protects, of the same group, shows that it would be found.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.mount.conftest import Sealed
from tests.support.key_forms import forms_found, forms_of_mount
from tests.support.leaks import PlaintextIndex
from tests.support.mounting import Home, Mount, mounted, succeed
from tests.support.swap import (
    Group,
    SwapFile,
    UnavailableError,
    new_group,
    new_swap_file,
)
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.fuse]

KiB = 1 << 10
MiB = 1 << 20
SWAP_SIZE = 192 * MiB
PRESSED = 4

RESIDENT, ON_DEMAND = "weights.bin", "vocabulary.txt"
SIZE = 4 * MiB

# Maps files, and looks at every page again and again; has no two bytes of one in a row.
READER = """
import mmap, os, sys, time
mappings = []
for path in sys.argv[1:]:
    fd = os.open(path, os.O_RDONLY)
    mappings.append(mmap.mmap(fd, 0, prot=mmap.PROT_READ))
parent, number = os.getppid(), 0
while os.getppid() == parent:
    number += 1
    seen = [sum(mapping[number % 4096::4096]) for mapping in mappings]
    time.sleep(0.1)
    if number == 3:
        print("reading", flush=True)
"""

# Memory of its own and a file in memory, both unprotected, of 8 MiB each.
UNPROTECTED = """
import mmap, sys
own, shared = (word.encode() * 4096 for word in sys.argv[1:])
own *= (8 << 20) // len(own)
shared *= (8 << 20) // len(shared)
file = mmap.mmap(-1, 8 << 20)
file[: len(shared)] = shared
print("there", flush=True)
sys.stdin.read()
"""
OWN, SHARED = (f"what-{what}-memory-is-not-protected" for what in ("own", "shared"))


@pytest.fixture
def group() -> Iterator[Group]:
    if os.geteuid() != 0:
        pytest.skip("only root can turn swap on")
    try:
        with new_group() as group:
            yield group
    except UnavailableError as error:
        pytest.skip(f"{error}")


@pytest.fixture
def swap(group: Group) -> Iterator[SwapFile]:
    try:
        with new_swap_file(SWAP_SIZE) as swap:
            yield swap
    except UnavailableError as error:
        pytest.skip(f"{error}")


@contextmanager
def running(group: Group, *arguments: str | Path) -> Iterator[int]:
    """Run a program in the group, once it has said so; kill it at the end."""
    command = group.joined(sys.executable, "-c", *map(str, arguments))
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline()
            yield process.pid
        finally:
            process.kill()


def swapped(pid: int) -> int:
    """Return how much of a process's own memory is swapped out, in bytes."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmSwap:"):
            return int(line.split()[1]) * KiB
    raise AssertionError(pid)


def wait_for_another(mount: Mount, before: int) -> int:
    """Wait until another daemon serves, from the same file in memory; return it."""

    def is_serving() -> bool:
        found = mount.status()
        return bool(found["pid"] != before and found["resident_bytes"] == SIZE)

    wait_until(is_serving)
    return int(mount.status()["pid"])


def use(mount: Mount, group: Group) -> None:
    """Have files open and mapped, and press the group in every state."""
    paths = [mount.mountpoint / name for name in (RESIDENT, ON_DEMAND)]
    with running(group, READER, *paths):
        press(group)
        if mount.status()["engine"] == "kernel":
            os.kill(mount.pid, signal.SIGKILL)
            successor = wait_for_another(mount, mount.pid)
            press(group)
            succeed(mount.home, "reload", mount.mountpoint)
            wait_for_another(mount, successor)
            press(group)


def press(group: Group) -> None:
    """Let the reader go on in between: memory that was used just now is left alone."""
    for _ in range(PRESSED):
        group.press()
        time.sleep(0.05)


@pytest.fixture
def owner(scratch: Path) -> Home:
    home = Home(directory=scratch / "home")
    succeed(home, "keygen")
    return home


@pytest.fixture
def model(scratch: Path, owner: Home) -> Sealed:
    """A model that the memory of this process never has."""
    plain, cipherdir = scratch / "plain", scratch / "sealed"
    plain.mkdir()
    for name in (RESIDENT, ON_DEMAND):
        with (plain / name).open("wb") as file:
            command = ["head", "-c", f"{SIZE}", "/dev/urandom"]
            subprocess.run(command, stdout=file, check=True)
    succeed(owner, "encrypt", plain, cipherdir)
    return Sealed(plain=plain, cipherdir=cipherdir)


def test_nothing_of_a_mount_is_swapped_out(
    owner: Home, model: Sealed, scratch: Path, group: Group, swap: SwapFile
) -> None:
    with ExitStack() as stack:
        unprotected = stack.enter_context(running(group, UNPROTECTED, OWN, SHARED))
        for engine in ("kernel", "libfuse"):
            with mounted(
                group.home(owner), model.cipherdir, scratch / engine, engine=engine
            ) as mount:
                use(mount, group)
                for name in (RESIDENT, ON_DEMAND):
                    served = scratch / engine / name
                    subprocess.run(["cmp", model.plain / name, served], check=True)
        wait_until(lambda: swapped(unprotected) > 7 * MiB)
    content = swap.content()

    assert content.count(OWN.encode()) > 7 * MiB / len(OWN)
    assert content.count(SHARED.encode()) > 7 * MiB / len(SHARED)
    assert list(forms_found(forms_of_mount(owner, model.cipherdir), content)) == []
    (scratch / "content").write_bytes(content)
    assert PlaintextIndex(model.plain).search([scratch / "content"]) == []
