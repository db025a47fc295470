"""Daemons that were killed and cannot end yet.

A thread of one may wait in the kernel for what only its successor brings about: it told
of a change in a directory, for which the kernel waits for a lock that whoever looks up
a name there has, until that is answered. Until then the process has all its descriptors
open, and cannot be waited for. Used by the keeper. Single-threaded.
"""

import os
import signal
import socket
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

from ovfuse.serve.readable import wait_readable
from ovfuse.serve.survival.channel import Message, receive

__all__ = ["Remains", "hear"]

_STUCK: Final = frozenset({"D", "Z", "X"})
"""Uninterruptible sleep, and what has ended, as in proc(5)."""
_SILENCE_SECONDS: Final = 0.5
"""After these, and again, there is a look at one that says nothing."""
_LOOK_SECONDS: Final = 0.002


def hear(daemon: socket.socket, pid: int, buffer: bytearray) -> Message | None:
    """Return a daemon's next message; None if there will be none.

    Args:
        daemon: the socket to it.
        pid: its number.
        buffer: see `receive`.
    """
    looks = 0
    while not wait_readable(daemon, _SILENCE_SECONDS):
        looks = looks + 1 if _cannot_end(pid) else 0
        if looks > 1:
            return None
    return receive(daemon, buffer)


class Remains:
    """Those that are left behind; reaped when they have ended after all."""

    def __init__(self) -> None:
        self._pids: set[int] = set()

    def wait_for(self, pid: int) -> int:
        """Return how a child has ended, as waitpid(2) says it.

        One that cannot is left behind, and was killed.
        """
        patience = time.monotonic() + _SILENCE_SECONDS
        while True:
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                return status
            if time.monotonic() > patience and _cannot_end(pid):
                self._pids.add(pid)
                self.reap()  # it may have ended before it was known
                return signal.SIGKILL
            time.sleep(_LOOK_SECONDS)

    def reap(self) -> None:
        """Forget those that have ended; also called by a handler of SIGCHLD."""
        for pid in tuple(self._pids):
            with suppress(ChildProcessError):
                if os.waitpid(pid, os.WNOHANG)[0] != pid:
                    continue
            self._pids.discard(pid)


def _cannot_end(pid: int) -> bool:
    """Tell whether a child was killed, and none of its threads can do anything.

    The first thread is not the first to end in a process that lives: Python's waits for
    the end of the program. One that still runs might take a request, and die with it.
    Where a unit does not see it, which leaves no dump, in its own /proc: False.
    """
    states = {}
    with suppress(OSError):
        threads = Path(f"/proc/{pid}/task").iterdir()
        states = {thread.name: _state(thread) for thread in threads}
    is_dead, others = states.pop(f"{pid}", "") == "Z", {*states.values()}
    return is_dead and "D" in others and others <= _STUCK


def _state(thread: Path) -> str:
    with suppress(OSError):
        stat = (thread / "stat").read_text("utf-8", "replace")
        return stat.rpartition(")")[2].split()[0]
    return "X"
