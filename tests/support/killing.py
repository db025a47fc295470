"""Ends a mount the hard way: with nobody left who could go on with it."""

import os
import signal
from contextlib import suppress
from pathlib import Path

__all__ = ["kill_for_good", "parent_of"]


def parent_of(pid: int) -> int:
    """Return the process that started another one."""
    fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    return int(fields[1])


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
