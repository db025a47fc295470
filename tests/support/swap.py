"""A swap of one's own, and processes that are pressed into it.

The pressure is that of a control group, so the rest of the machine has what it had: it
may swap meanwhile, and has no reason to. Whatever happens to the process that made it,
the swap is off and its file gone soon after.
"""

import os
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

from tests.support.machine import alone_on_the_machine
from tests.support.mounting import Home
from tests.support.waiting import wait_until

__all__ = ["Group", "SwapFile", "UnavailableError", "new_group", "new_swap_file"]

MiB = 1 << 20

_GROUPS = Path("/sys/fs/cgroup")
_ZSWAP = Path("/sys/module/zswap/parameters/enabled")
_PRIORITY = 32767  # before any other swap

# Goes on at every line, and at the end of its input as well.
_GUARD = r"""
trap '' HUP INT TERM PIPE
PATH=$PATH:/usr/sbin:/sbin
mkswap "$1" >/dev/null 2>&1 && swapon -p "$2" "$1" 2>&1; echo "done $?"
read -r _
swapoff "$1" 2>&1; echo "done $?"
read -r _
rm -f "$1"
"""


class UnavailableError(Exception):
    """Why this machine has no such thing."""


class SwapFile:
    """See `new_swap_file`.

    Args:
        size: in bytes.
    """

    def __init__(self, size: int) -> None:
        fd, name = tempfile.mkstemp(prefix="ovfuse-swap-", dir="/var/tmp")
        self.path = Path(name)
        with os.fdopen(fd, "wb") as file:
            # Blocks that were never written would read as zeros, swapped to or not.
            file.writelines([bytes(MiB)] * (size // MiB))
            file.flush()
            os.fsync(file.fileno())
        self._guard = subprocess.Popen(
            ["sh", "-c", _GUARD, "sh", self.path, str(_PRIORITY)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def __enter__(self) -> Self:
        try:
            self._expect()
        except UnavailableError:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._guard.communicate()
        assert not self.path.exists()

    def content(self) -> bytes:
        """Turn it off, and return all that is and was in it."""
        assert self._guard.stdin is not None
        self._guard.stdin.write("\n")
        self._guard.stdin.flush()
        self._expect()
        with self.path.open("rb", buffering=0) as file:
            # What is cached was there before the kernel swapped past the cache.
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            return file.read()

    def _expect(self) -> None:
        """Wait for the guard's next word.

        Raises:
            UnavailableError: it is not `done 0`; the words before say why.
        """
        assert self._guard.stdout is not None
        said = ""
        for line in self._guard.stdout:
            if line.startswith("done "):
                if line == "done 0\n":
                    return
                break
            said += line
        raise UnavailableError(said.strip() or "no swap can be made")


@contextmanager
def new_swap_file(size: int) -> Iterator[SwapFile]:
    """Swap to a new file.

    Raises:
        UnavailableError: it cannot be done here.
    """
    with suppress(OSError):
        if _ZSWAP.read_text() == "Y\n":
            raise UnavailableError("zswap is on: what is swapped out reaches no disk")
    with alone_on_the_machine(), SwapFile(size) as swap:
        yield swap


@dataclass(frozen=True)
class Group:
    """A control group, from which memory can be taken."""

    directory: Path

    def joined(self, *command: str) -> tuple[str, ...]:
        """Return the command that runs another one in the group."""
        procs = os.fspath(self.directory / "cgroup.procs")
        return ("sh", "-c", 'echo $$ > "$0" && exec "$@"', procs, *command)

    def home(self, home: Home) -> Home:
        """Return the same home, the program of which is in the group."""
        return replace(home, program=self.joined(*home.program))

    def press(self) -> None:
        """Take all memory from it that can be dropped or swapped out.

        Its processes stand still: the kernel does not end before it gets no more.
        """
        with self._stopped():
            if (self.directory / "memory.force_empty").exists():
                self._write("memory.force_empty", "0")
            else:
                used = (self.directory / "memory.current").read_text()
                self._write("memory.reclaim", used)

    @property
    def shared_memory(self) -> int:
        """The bytes of files in memory that its processes made, living or not."""
        text = (self.directory / "memory.stat").read_text()
        return int(dict(line.split() for line in text.splitlines())["shmem"])

    @contextmanager
    def _stopped(self) -> Iterator[None]:
        pids = [
            int(line)
            for line in (self.directory / "cgroup.procs").read_text().splitlines()
        ]
        try:
            for pid in pids:
                _signal(pid, signal.SIGSTOP)
            yield
        finally:
            for pid in pids:
                _signal(pid, signal.SIGCONT)

    def _write(self, name: str, text: str) -> None:
        # The kernel says so if something is left, which locked memory is.
        with suppress(BlockingIOError, InterruptedError):
            (self.directory / name).write_text(text)


@contextmanager
def new_group() -> Iterator[Group]:
    """Make a group for memory, which must be without processes again at the end.

    Raises:
        UnavailableError: it cannot be done here.
    """
    parent = _parent_of_groups()
    try:
        directory = Path(tempfile.mkdtemp(prefix="ovfuse-", dir=parent))
    except OSError as error:
        raise UnavailableError(f"no control group: {error}") from error
    try:
        yield Group(directory)
    finally:
        wait_until(lambda: not (directory / "cgroup.procs").read_text())
        directory.rmdir()


def _signal(pid: int, number: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, number)


def _parent_of_groups() -> Path:
    """Return our own group, or the closest one around it that may have new ones."""
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if "memory" in controllers.split(","):
            return _GROUPS / "memory" / path.strip("/")
        if not controllers:
            own = _GROUPS / path.strip("/")
            for place in (own, *own.parents):
                with suppress(OSError):
                    if "memory" in (place / "cgroup.subtree_control").read_text():
                        return place
    raise UnavailableError("no control group limits memory")
