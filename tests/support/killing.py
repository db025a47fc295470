"""Ends a mount the hard way: with nobody left who could go on with it."""

import os
import signal
from contextlib import suppress
from pathlib import Path

__all__ = ["child_of", "kill_for_good", "parent_of"]


def parent_of(pid: int) -> int:
    """Return the process that started another one."""
    return int(_fields(pid)[1])


def kill_for_good(daemon: int) -> None:
    """Kill a daemon and its keeper, if it has one; neither can do anything about it."""
    keeper = parent_of(daemon)
    os.kill(daemon, signal.SIGSTOP)  # else it would see the keeper go
    if _command_line(keeper) == _command_line(daemon):  # it is a fork of it
        os.kill(keeper, signal.SIGKILL)
    with suppress(ProcessLookupError):
        os.kill(daemon, signal.SIGKILL)


def _command_line(pid: int) -> bytes:
    return Path(f"/proc/{pid}/cmdline").read_bytes()


def child_of(pid: int) -> int | None:
    """Return the process that another one has started and that runs, if there is one.

    Of a keeper that is its daemon; it has one at a time.
    """
    for process in Path("/proc").iterdir():
        if not process.name.isdecimal():
            continue
        with suppress(OSError):
            state, parent = _fields(int(process.name))[:2]
            if int(parent) == pid and state != b"Z":
                return int(process.name)
    return None


def _fields(pid: int) -> list[bytes]:
    return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
