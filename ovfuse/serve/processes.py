"""Who asks: what the kernel says of a process that waits for an answer, and /proc.

Used by the audit. While it waits for OPEN it cannot go away, unless it is killed. What
/proc says was chosen by strangers. Stateless; any thread.
"""

import os
from pathlib import Path
from typing import Final, NamedTuple

__all__ = ["NOBODY", "Caller", "Process", "look_at", "start_time"]

_STAT_SIZE: Final = 4096
_START_TIME: Final = 19
"""Of the words after the name in /proc/PID/stat."""


class Caller(NamedTuple):
    """As FUSE names it.

    Attributes:
        uid: with which it accesses files.
        gid: likewise.
        pid: of the thread; 0 for a process that this PID namespace does not have.
    """

    uid: int
    gid: int
    pid: int


NOBODY: Final = Caller(0, 0, 0)


class Process(NamedTuple):
    """What can be known of it.

    Attributes:
        pid: of the process, whichever of its threads asks.
        start: when it was started, in ticks since the machine was; 0 if not known.
        exe: the program, where that process sees it; `?` if it must not be read.
        name: what it calls itself, likewise.
    """

    pid: int
    start: int
    exe: str
    name: str


def start_time(pid: int) -> int:
    """Return when a thread or process was started; 0 if that is not known.

    With its number, this names it: numbers come round again.
    """
    return _start_time(_stat(pid))


def look_at(pid: int) -> Process:
    """Return what is known of the process that a thread belongs to."""
    if pid == 0 or not _is_our_proc():
        return Process(pid, 0, "?", "?")
    process = _process_of(pid)
    stat = _stat(process)
    try:
        exe = os.fspath(Path(f"/proc/{process}/exe").readlink())
    except OSError:
        exe = "?"
    name = stat.partition(b"(")[2].rpartition(b")")[0]
    return Process(process, _start_time(stat), exe, os.fsdecode(name) or "?")


def _is_our_proc() -> bool:
    """Tell whether /proc has the numbers of our PID namespace, as it should."""
    try:
        return Path("/proc/self").readlink().name == f"{os.getpid()}"
    except OSError:
        return False


def _process_of(thread: int) -> int:
    for line in _read(f"/proc/{thread}/status").splitlines():
        if line.startswith(b"Tgid:"):
            return int(line.split()[1])
    return thread


def _stat(pid: int) -> bytes:
    return _read(f"/proc/{pid}/stat") if pid else b""


def _start_time(stat: bytes) -> int:
    words = stat.rpartition(b")")[2].split()
    return int(words[_START_TIME]) if len(words) > _START_TIME else 0


def _read(path: str) -> bytes:
    """Read a small file: at each OPEN, and so without an object of Python's for it."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return b""
    try:
        return os.read(fd, _STAT_SIZE)
    except OSError:  # it has just ended
        return b""
    finally:
        os.close(fd)
