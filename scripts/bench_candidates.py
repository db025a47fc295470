"""What bench.py compares: how each filesystem is made, mounted and ended.

Every one is used as its manual's first example does, without options that would make
it faster or slower.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

OVFUSE = Path(sys.executable).with_name("ovfuse")
PASSWORD = "benchmark"  # noqa: S105 - nothing is kept
TIMEOUT_SECONDS = 60
POLL_SECONDS = 0.002
SMALL_PAGE = 4096

Command = list[str]


class BenchError(Exception):
    """A candidate does not do what it should."""


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One way to have files.

    Attributes:
        program: without which it is left out; plain files need none.
        make: the command that makes an empty store, if it needs one.
        mount: the command that mounts STORE at MOUNTPOINT.
        version: the command that says its version.
        needs_password: it reads one from its input.
        is_renewed: its files are written anew before each measurement; see `renew`.
    """

    name: str
    program: str = ""
    make: Callable[[str], Command] | None = None
    mount: Callable[[str, str], Command] | None = None
    version: Command | None = None
    needs_password: bool = False
    is_renewed: bool = False

    @property
    def is_ours(self) -> bool:
        return self.program == str(OVFUSE)

    @property
    def is_there(self) -> bool:
        return not self.program or shutil.which(self.program) is not None

    def run(self, command: Command) -> None:
        """Run one of the commands to its end.

        Without a time limit: with one, Python looks only now and then whether it has
        ended, up to 0.05 s late.
        """
        said = subprocess.run(
            command,
            input=f"{PASSWORD}\n{PASSWORD}\n" if self.needs_password else "",
            stdout=subprocess.DEVNULL,  # a daemon may keep it
            stderr=subprocess.DEVNULL,
            text=True,
            check=False,
        )
        if said.returncode:
            raise BenchError(f"{command} failed with {said.returncode}")


def _ovfuse(name: str, *options: str) -> Candidate:
    return Candidate(
        name=f"ovfuse {name}",
        program=str(OVFUSE),
        mount=lambda store, at: [str(OVFUSE), "mount", *options, store, at],
        version=[str(OVFUSE), "--version"],
    )


CANDIDATES = (
    Candidate(name="plain"),
    Candidate(name="plain, small pages", is_renewed=True),
    Candidate(
        name="bindfs",
        program="bindfs",
        mount=lambda store, at: ["bindfs", store, at],
        version=["bindfs", "--version"],
    ),
    Candidate(
        name="gocryptfs",
        program="gocryptfs",
        make=lambda store: ["gocryptfs", "-q", "-init", store],
        mount=lambda store, at: ["gocryptfs", "-q", store, at],
        version=["gocryptfs", "-version"],
        needs_password=True,
    ),
    Candidate(
        name="securefs",
        program="securefs",
        make=lambda store: ["securefs", "create", "--pass", PASSWORD, store],
        mount=lambda store, at: [
            *("securefs", "mount", "-b", "--pass", PASSWORD, store, at)
        ],
        version=["securefs", "version"],
    ),
    Candidate(
        name="encfs",
        program="encfs",
        mount=lambda store, at: ["encfs", "--standard", "--stdinpass", store, at],
        version=["encfs", "--version"],
        needs_password=True,
    ),
    _ovfuse("libfuse", "-o", "engine=libfuse"),
    _ovfuse("on demand", "-o", "engine=kernel,resident=never"),
    _ovfuse("default"),
)


def fill(candidate: Candidate, source: Path, store: Path, at: Path) -> None:
    """Put all of `source` into a new store."""
    if candidate.is_ours:
        candidate.run([str(OVFUSE), "encrypt", str(source), str(store)])
        return
    store.mkdir()
    if candidate.mount is None:
        copy(source, store)
        return
    if candidate.make:
        candidate.run(candidate.make(str(store)))
    with mounted(candidate, store, at):
        copy(source, at)


def copy(source: Path, target: Path) -> None:
    """Copy what is in a directory, as people do."""
    subprocess.run(["cp", "-r", f"{source}/.", str(target)], check=True)


def renew(store: Path) -> None:
    """Write files anew, 4 KiB at a time: the pages of their cache are that small then.

    Such are all pages of FUSE, and those of older kernels' ext4. Others are larger
    where memory allows, which makes a mapping up to four times as fast.
    """
    for path in filter(Path.is_file, store.iterdir()):
        written = path.with_name("new")
        with path.open("rb") as old, written.open("wb", buffering=0) as new:
            while piece := old.read(SMALL_PAGE):
                new.write(piece)
        written.replace(path)
    os.sync()


@contextmanager
def mounted(
    candidate: Candidate, store: Path, at: Path, known: str = ""
) -> Iterator[float]:
    """Mount, yield the seconds until `known` could be asked for, and unmount."""
    if candidate.mount is None:
        if candidate.is_renewed:
            renew(store)
        yield 0.0
        return
    began = time.perf_counter()
    try:
        candidate.run(candidate.mount(str(store), str(at)))
        wait_until((at / known).exists if known else at.is_mount)
        yield time.perf_counter() - began
    finally:
        unmount(at)


def unmount(at: Path) -> None:
    """End the mount, and wait for its daemon; kill it if that does not help."""
    daemons = daemons_of(at)
    root = os.geteuid() == 0
    command = ["umount", str(at)] if root else ["fusermount3", "-u", str(at)]
    try:
        if at.is_mount():
            wait_until(lambda: not subprocess.run(command, check=False).returncode)
        wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in daemons))
    except BenchError:
        lazily = [*command[:-1], "-l" if root else "-z", command[-1]]
        subprocess.run(lazily, check=False)
        for pid in daemons:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        raise


def daemons_of(at: Path) -> list[int]:
    """Return the processes that were told this mountpoint."""
    word = os.fsencode(at)
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            if word in path.read_bytes().split(b"\0"):
                found.append(int(path.parent.name))
    return found


def resident(at: Path) -> float:
    """Return the MiB of memory that a mount's processes have, shared pages once."""
    total = 0
    for pid in daemons_of(at):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                total += int(line.split()[1])
    return total / 1024


def wait_until(there: Callable[[], bool]) -> None:
    """Wait.

    Raises:
        BenchError: it takes too long.
    """
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while not there():
        if time.monotonic() > deadline:
            raise BenchError("waited too long")
        time.sleep(POLL_SECONDS)


def version_of(candidate: Candidate) -> str:
    """Return the first line that it says of itself."""
    if candidate.version is None:
        return ""
    done = subprocess.run(
        candidate.version, capture_output=True, text=True, check=False
    )
    return ((done.stdout or done.stderr).strip().splitlines() or [""])[0].strip()
