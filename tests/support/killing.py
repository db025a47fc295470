"""Ends a mount the hard way: with nobody left who could go on with it."""

import os
import signal
from contextlib import suppress
from pathlib import Path

from tests.support.mounting import is_gone
from tests.support.waiting import wait_until

__all__ = ["child_of", "kill_for_good", "parent_of", "unwrappers_of"]


def parent_of(pid: int) -> int:
    """Return the process that started another one."""
    return int(_fields(pid)[1])


def kill_for_good(daemon: int) -> None:
    """Kill a daemon and its keeper, if it has one; neither can do anything about it.

    They have ended when this returns: of what a dying one takes, libfuse may lose some.
    """
    keeper = parent_of(daemon)
    os.kill(daemon, signal.SIGSTOP)  # else it would see the keeper go
    ended = [daemon]
    if _command_line(keeper) == _command_line(daemon):  # it is a fork of it
        os.kill(keeper, signal.SIGKILL)
        ended.append(keeper)
    with suppress(ProcessLookupError):
        os.kill(daemon, signal.SIGKILL)
    wait_until(lambda: all(map(is_gone, ended)))


def _command_line(pid: int) -> bytes:
    return Path(f"/proc/{pid}/cmdline").read_bytes()


def child_of(pid: int) -> int | None:
    """Return the process that another one has started and that runs, if there is one.

    Of a keeper that is its daemon; it has one at a time.
    """
    found = [child for child, is_unwrapper in _children(pid) if not is_unwrapper]
    return found[0] if found else None


def unwrappers_of(keeper: int) -> list[int]:
    """Return its children that look for keys."""
    return [child for child, is_unwrapper in _children(keeper) if is_unwrapper]


def _children(pid: int) -> list[tuple[int, bool]]:
    """Return those that run, the oldest first, and whether they look for keys.

    One that has just been forked for that does not say so yet, but is younger than
    the daemon.
    """
    found = []
    for process in Path("/proc").iterdir():
        if not process.name.isdecimal():
            continue
        with suppress(OSError):
            state, parent, *rest = _fields(int(process.name))
            if int(parent) == pid and state != b"Z":
                name = (process / "comm").read_bytes().strip()
                started = (int(rest[17]), int(process.name))
                found.append((*started, name == b"ovfuse-unwrap"))
    return [(child, is_unwrapper) for _, child, is_unwrapper in sorted(found)]


def _fields(pid: int) -> list[bytes]:
    return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
