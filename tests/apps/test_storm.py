"""A storm of re-sealings under eight readers: each file read is of one sealing.

Sixty of them here; scripts/soak makes a thousand. And a quarter of a minute in which
daemons are killed and reloaded, too; scripts/soak takes longer.
"""

import mmap
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path

import pytest

from tests.mount.resealing import FILES, Resealed, content_of
from tests.support.killing import child_of
from tests.support.mounting import (
    ENGINES,
    STAYING_ENGINES,
    Home,
    Mount,
    mounted,
    succeed,
)
from tests.support.users import needs_root, open_directory
from tests.support.waiting import wait_until

pytestmark = [
    pytest.mark.fuse,
    pytest.mark.slow,
    needs_root,
]

SEALINGS = int(os.environ.get("OVFUSE_STORM_SEALINGS", "60"))
DISTURBED_SECONDS = float(os.environ.get("OVFUSE_DISTURBED_SECONDS", "15"))
SEALED_AT_LEAST = 3
"""However slow the machine is: readers must have seen more than one version."""
KINDS = (
    ("plainly", "mapped", "by-version", "by-version"),
    ("plainly", "mapped", "by-descriptor", "by-version"),
)
"""How a single model is read, and how one in a tree."""
MAX_GROWTH = 8 << 20
"""Bytes of resident memory."""


@pytest.fixture
def place() -> Iterator[Path]:
    with open_directory() as directory:
        yield directory


@contextmanager
def reader(kind: str, directory: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that reads; at the end it must have seen nothing wrong."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.apps.storm_reader", kind, directory],
        cwd=Path(__file__).parents[2],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    try:
        yield process
        out, errors = process.communicate(timeout=60)
        assert process.returncode == 0, (kind, directory, errors)
        reads, gone, versions = map(int, out.split())
        say(f"{directory.name} {kind}: {reads} reads, {gone} gone, {versions} versions")
        assert versions > 1
        assert reads > gone
    finally:
        process.kill()
        process.communicate()


def say(text: str) -> None:
    """Say what was measured, for scripts/soak."""
    sys.stdout.write(f"{text}\n")


def resident(mount: Mount) -> int:
    """Return the daemon's memory in bytes."""
    return memory_of(mount.pid)


def memory_of(pid: int) -> int:
    """Return the memory of a process in bytes."""
    status = Path(f"/proc/{pid}/status").read_text()
    found = re.search(r"VmRSS:\s+(\d+) kB", status)
    assert found is not None
    return int(found[1]) << 10


def removed(pid: int) -> int:
    """Return how much of what is removed a process has open.

    Files in memory never had a name: they are `/#7 (deleted)`, or `/memfd:...`.
    """
    links = []
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):
            links.append(f"{descriptor.readlink()}")
    return sum(
        link.endswith(" (deleted)") and not link.startswith(("/#", "/memfd:"))
        for link in links
    )


def shows(directory: Path, model: Resealed) -> bool:
    data = (directory / "model.xml").read_bytes()
    return data == content_of(model.version, FILES["model.xml"])


def is_settled(pid: int, model: Resealed, left: int) -> bool:
    """Tell whether no more than that is left; each change is an occasion to look."""
    (model.cipherdir / "x").write_bytes(b"")
    return removed(pid) <= left


@pytest.mark.parametrize("engine", sorted({*ENGINES} - STAYING_ENGINES))
def test_storm_of_sealings(place: Path, engine: str) -> None:
    home = Home(directory=place / "home")
    succeed(home, "keygen")
    model = Resealed(home, place / "tree/m", place / "plain").seal()
    with (
        mounted(home, model.cipherdir, place / "single", engine=engine) as single,
        mounted(home, place / "tree", place / "all", engine=engine) as tree,
        (place / "single/model.bin").open("rb") as file,
        mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapping,
    ):
        at_first = make_storm(
            model, [(single, place / "single"), (tree, place / "all/m")]
        )

        assert mapping[:] == content_of(1, FILES["model.bin"])
        # The mapping has a file open, and its sealing three descriptors.
        for mount, left in ((single, 4), (tree, 0)):
            wait_until(partial(is_settled, mount.pid, model, left))
            before, after = at_first[mount.pid], resident(mount)
            count = len(os.listdir(f"/proc/{mount.pid}/fd"))
            say(f"{before >> 10} KiB, then {after >> 10}; {count} descriptors")
            assert after < before + MAX_GROWTH


@contextmanager
def readers(tops: list[tuple[Mount, Path]]) -> Iterator[None]:
    """Read both mounts in every way."""
    with ExitStack() as stack:
        for (_, top), kinds in zip(tops, KINDS, strict=True):
            for kind in kinds:
                stack.enter_context(reader(kind, top))
        yield


def make_storm(model: Resealed, tops: list[tuple[Mount, Path]]) -> dict[int, int]:
    """Seal under the readers; return the daemons' memory after a third of it."""
    chance = random.Random(5)
    at_first = {}
    with readers(tops):
        started = time.monotonic()
        for number in range(SEALINGS):
            model.seal()
            if chance.random() < 0.7:  # else the next comes in the middle of it
                for _, top in tops:
                    wait_until(partial(shows, top, model))
            if number == SEALINGS // 3:
                at_first = {mount.pid: resident(mount) for mount, _ in tops}
        say(f"{SEALINGS} sealings in {time.monotonic() - started:.0f} s")
    return at_first


def test_storm_of_sealings_kills_and_reloads(place: Path) -> None:
    home = Home(directory=place / "home")
    succeed(home, "keygen")
    model = Resealed(home, place / "tree/m", place / "plain").seal()
    with (
        mounted(home, model.cipherdir, place / "single", engine="kernel") as single,
        mounted(home, place / "tree", place / "all", engine="kernel") as tree,
        (place / "single/model.bin").open("rb") as file,
        mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapping,
    ):
        tops = [(single, place / "single"), (tree, place / "all/m")]
        before = [keeper_of(mount) for mount in (single, tree)]
        disturb(home, model, tops)

        assert mapping[:] == content_of(1, FILES["model.bin"])
        for mount, left, known in zip((single, tree), (4, 0), before, strict=True):
            keeper, memory = keeper_of(mount)
            assert keeper == known[0]
            wait_until(partial(is_settled, keeper, model, left))
            wait_until(partial(is_settled, daemon_of(keeper), model, left))
            count = len(os.listdir(f"/proc/{keeper}/fd"))
            say(f"keeper: {known[1] >> 10} KiB, {memory >> 10}; {count} descriptors")
            assert memory < known[1] + MAX_GROWTH


def disturb(home: Home, model: Resealed, tops: list[tuple[Mount, Path]]) -> None:
    """Seal, kill and reload under the readers."""
    chance, done = random.Random(7), Counter[str]()
    end = time.monotonic() + DISTURBED_SECONDS
    with readers(tops):
        while time.monotonic() < end or done["seal"] < SEALED_AT_LEAST:
            mount, _ = chance.choice(tops)
            match kind := chance.choices(("seal", "kill", "reload"), (6, 3, 1))[0]:
                case "seal":
                    model.seal()
                case "kill":
                    os.kill(daemon_of(keeper_of(mount)[0]), signal.SIGKILL)
                case "reload":
                    succeed(home, "reload", mount.mountpoint)
            done[kind] += 1
            if chance.random() < 0.7:  # else the next comes in the middle of it
                for _, top in tops:
                    wait_until(partial(shows, top, model))
        say(f"{dict(done)} in {DISTURBED_SECONDS:.0f} s")


def daemon_of(keeper: int) -> int:
    """Return the process that serves now."""
    wait_until(lambda: child_of(keeper))
    daemon = child_of(keeper)
    assert daemon is not None
    return daemon


def keeper_of(mount: Mount) -> tuple[int, int]:
    """Return the keeper's number and its memory in bytes."""
    wait_until(lambda: mount.status()["keeper"])
    keeper = mount.status()["keeper"]
    assert isinstance(keeper, int)
    return keeper, memory_of(keeper)
