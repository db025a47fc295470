"""`python -m tests.support.leftovers COMMAND ...`: nothing may outlive COMMAND.

Used by scripts/test. Exits with COMMAND's status, or 1 if a process that it
started or an ovfuse mount is still there: these are printed, and the processes
ended. Every orphan becomes a child of this process, however it was detached.
"""

import ctypes
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

__all__ = ["main"]

_PR_SET_CHILD_SUBREAPER = 36
_GRACE_SECONDS = 5


def main(command: list[str]) -> int:
    """Run it, look what is left, and return the exit status."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    mounts_before = _mounts()
    status = _run(command)
    processes = _remaining_children()
    mounts = _mounts() - mounts_before
    for pid, text in processes.items():
        print(f"left behind: process {pid}: {text}", file=sys.stderr)
    for mountpoint in sorted(mounts):
        print(f"left behind: mount {mountpoint}", file=sys.stderr)
    _end(processes)
    return status or bool(processes or mounts)


def _run(command: list[str]) -> int:
    # A shell starts what is in its background with these ignored, and children of
    # children inherit that: tests that interrupt a program would wait in vain.
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    child = subprocess.Popen(command)
    # The terminal interrupts the whole group; a handler, unlike SIG_IGN, is not
    # inherited by the command.
    signal.signal(signal.SIGINT, lambda *_: None)
    signal.signal(signal.SIGTERM, lambda *_: os.kill(child.pid, signal.SIGTERM))
    while True:  # reap orphans as init would
        pid, status = os.wait()
        if pid == child.pid:
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else 128 - code


def _remaining_children() -> dict[int, str]:
    """What is still running after a moment in which it may finish."""
    deadline = time.monotonic() + _GRACE_SECONDS
    while (left := _children()) and time.monotonic() < deadline:
        time.sleep(0.05)
    return left


def _children() -> dict[int, str]:
    try:
        while os.waitpid(-1, os.WNOHANG) != (0, 0):
            pass
    except ChildProcessError:
        return {}
    pids = Path("/proc/self/task", str(os.getpid()), "children").read_text("ascii")
    return {int(pid): _command_line(pid) for pid in pids.split()}


def _command_line(pid: str) -> str:
    try:
        raw = Path("/proc", pid, "cmdline").read_bytes()
    except OSError:
        return "?"
    return raw.rstrip(b"\0").replace(b"\0", b" ").decode(errors="replace")


def _end(processes: dict[int, str]) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        for pid in processes.keys() & _children().keys():
            os.kill(pid, number)
        _remaining_children()


def _mounts() -> set[str]:
    lines = Path("/proc/self/mounts").read_text("utf-8", "replace").splitlines()
    return {line.split()[1] for line in lines if line.split()[2] == "fuse.ovfuse"}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
