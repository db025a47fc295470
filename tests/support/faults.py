"""Commands of ovfuse that are killed, or refused by the system, at a chosen call.

`strace` does it: `-e inject` acts on the call of a certain number in a process. So
that one strace, and one start of Python, is enough for all calls of a command, a
server forks each command and first makes calls that only count (on no file) until
the chosen one is next. Only what changes a disk is counted; reading is for
`faults_fuse`.
"""

import json
import os
import re
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TextIO

from tests.support.waiting import wait_until

__all__ = ["CHANGING", "KILL", "Call", "Faults", "Finished", "Server", "fails"]

CHANGING = (
    *("open", "openat", "creat", "mkdir", "mkdirat", "mknod", "mknodat"),
    *("write", "pwrite64", "writev", "pwritev", "pwritev2"),
    *("copy_file_range", "sendfile", "ftruncate", "truncate", "fallocate"),
    *("rename", "renameat", "renameat2", "link", "linkat", "symlink", "symlinkat"),
    *("unlink", "unlinkat", "rmdir", "fsync", "fdatasync", "syncfs"),
    *("chmod", "fchmod", "fchmodat", "chown", "fchown", "fchownat"),
    *("utime", "utimes", "utimensat", "futimesat"),
)
"""The calls that change a disk; those of open only if they create."""

KILL = "signal=SIGKILL"
"""Killed when it is about to make the call."""

_MANY = 150
"""More calls of one kind than any command makes, those of a server included."""

_OPENING = ("open", "openat", "creat")
_SERVER = (sys.executable, "-m", "tests.support.faults_server")

_CREATING = re.compile(r"\bO_(CREAT|TMPFILE|TRUNC)\b")
_CALL = re.compile(r"(\d+) +([a-z0-9_]+)\((.*)")
_END = re.compile(r"(\d+) +\+\+\+ (exited|killed)")


def fails(error: str) -> str:
    """Return the action of a call that fails with an error, such as `ENOSPC`."""
    return f"error={error}"


@dataclass(frozen=True)
class Call:
    """The `number`th call of its name that a command made, counted from 1."""

    name: str
    number: int
    arguments: str

    def __str__(self) -> str:
        return f"{self.name} number {self.number}: {self.arguments}"


@dataclass(frozen=True)
class Finished:
    """How a command ended; a negative status is the signal that killed it."""

    pid: int
    status: int
    stderr: str


class Server:
    """Runs commands.

    Args:
        lines: sends and receives what faults_server.py says.
        pid: of the server.
    """

    def __init__(self, lines: TextIO, pid: int) -> None:
        self._lines = lines
        self.pid = pid

    @classmethod
    @contextmanager
    def serving(cls) -> Iterator[Self]:
        """Start one; wait until all that commands need is imported."""
        # Not a pipe: what the server writes to one would be counted.
        ours, theirs = socket.socketpair()
        with theirs:
            process = subprocess.Popen(
                [*_SERVER, str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                cwd=Path(__file__).parents[2],
                env={**os.environ, "PYTHONHASHSEED": "0"},
            )
        try:
            with ours, ours.makefile("rw") as lines:
                assert lines.readline() == "ready\n"
                yield cls(lines, process.pid)
        finally:
            process.wait()

    def run(
        self, environment: Mapping[str, str], *arguments: Any, at: Call | None = None
    ) -> Finished:
        """Run a command of ovfuse to its end.

        Args:
            environment: all of it.
            arguments: of the command.
            at: the call that is to be number `_MANY` of its name.
        """
        request = {
            "environment": dict(environment),
            "arguments": [os.fspath(argument) for argument in arguments],
            "call": at.name if at else None,
            "count": _MANY - at.number if at else 0,
        }
        self._lines.write(json.dumps(request) + "\n")
        self._lines.flush()
        return Finished(**json.loads(self._lines.readline()))


class Faults:
    """Runs commands, any of whose calls an action can be applied to.

    Args:
        server: of commands, under strace.
        log: what strace writes.
        directory: below which a call changes what counts.
    """

    def __init__(self, server: Server, log: Path, directory: Path) -> None:
        self._server = server
        self._log = log
        self._directory = f"{directory}/"

    @classmethod
    @contextmanager
    def serving(cls, action: str, directory: Path, log: Path) -> Iterator[Self]:
        """Start a server, and strace for it.

        Args:
            action: `KILL`, or what `fails` returned.
            directory: holds all that the commands will be given.
            log: a file for strace, outside of it.
        """
        names = ",".join(f"?{name}" for name in CHANGING)
        # With --seccomp-bpf it would inject no signals.
        command = (
            *("strace", "-f", "-q", "-y", "-s", "4096", "-o", os.fspath(log)),
            *("-e", f"trace={names}", "-e", "signal=none"),
            *("-e", f"inject={names}:{action}:when={_MANY}"),
        )
        # It is left last: strace ends with the server.
        with ExitStack() as ended, Server.serving() as server:
            strace = subprocess.Popen(
                [*command, "-p", str(server.pid)], stderr=subprocess.PIPE
            )
            ended.callback(strace.communicate)
            status = Path(f"/proc/{server.pid}/status")
            wait_until(
                lambda: (
                    strace.poll() is not None
                    or f"TracerPid:\t{strace.pid}\n" in status.read_text()
                )
            )
            assert strace.poll() is None, strace.communicate()
            yield cls(server, log, directory)

    def run(
        self, environment: Mapping[str, str], *arguments: Any, at: Call
    ) -> Finished:
        """Run a command of ovfuse, with the action at a call."""
        return self._server.run(environment, *arguments, at=at)

    def calls(
        self, environment: Mapping[str, str], *arguments: Any
    ) -> tuple[Finished, list[Call]]:
        """Run a command, and return what it changed below the directory, in order."""
        finished = self._server.run(environment, *arguments)
        counts: Counter[str] = Counter()
        found = []
        for name, text in self._logged(finished.pid):
            counts[name] += 1
            if self._is_change(name, text):
                found.append(Call(name, counts[name], text))
        assert all(count < _MANY for count in counts.values()), counts
        return finished, found

    def _is_change(self, name: str, text: str) -> bool:
        if text.endswith("(INJECTED)") or ") = -1 " in text:
            return False
        if name in _OPENING and not _CREATING.search(text):
            return False
        where = text.partition('"')[0] if "write" in name else text
        return self._directory in where

    def _logged(self, pid: int) -> Iterator[tuple[str, str]]:
        """Yield name and arguments of the calls of a process that has ended."""
        wait_until(lambda: self._has_ended(pid))
        for line in self._log.read_text("utf-8", "replace").splitlines():
            match = _CALL.match(line)
            if match and int(match[1]) == pid:
                yield match[2], match[3]

    def _has_ended(self, pid: int) -> bool:
        text = self._log.read_text("utf-8", "replace")
        return any(int(match[1]) == pid for match in _END.finditer(text))
