"""`command:PROGRAM ARGS`: what a program prints, started without a shell.

It gets nothing of ours but a few variables, and is in a group of processes of its own
that is killed when it has ended, is too slow, or says too much; and it dies when we do.
"""

import os
import select
import shlex
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Final, Self

from ovfuse.errors import KeyFileError, UsageError
from ovfuse.keys.sources.contract import MAX_SIZE, Source
from ovfuse.keys.sources.reading import taken
from ovfuse.memory import wipe
from ovfuse.quote import quoted
from ovfuse.secret import Secret

__all__ = ["CommandSource"]

_SECONDS: Final = 30.0
_ERRORS_SIZE: Final = 4096
_SHOWN: Final = 200
_SECRET_SIZE: Final = 8
"""A line of the output that is as long as this may be one."""
_ROOTS_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_VARIABLES: Final = ("CREDENTIALS_DIRECTORY", "HOME", "LANG", "PATH", "XDG_RUNTIME_DIR")
_START: Final = """
import ctypes, os, resource, signal, sys
parent, *command = sys.argv[1:]
signal.signal(signal.SIGTERM, lambda *_: os.killpg(0, signal.SIGKILL))
ctypes.CDLL(None).prctl(1, signal.SIGTERM, 0, 0, 0)  # PR_SET_PDEATHSIG
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
if os.getppid() != int(parent):
    os._exit(127)
child = os.fork()
if child == 0:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        os.execv(command[0], command)
    except OSError as error:
        os.write(2, error.strerror.encode())
    os._exit(127)
code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
if code < 0:
    if -code not in (signal.SIGKILL, signal.SIGSTOP):
        signal.signal(-code, signal.SIG_DFL)
    os.kill(os.getpid(), -code)
os._exit(code)
"""
"""Run by an interpreter of its own, which ends as the program does, and ends the whole
group if we die: after a fork in a program with threads, little may be done."""


@dataclass(frozen=True, slots=True)
class CommandSource(Source):
    """See `Source`.

    Args:
        line: program and arguments, as a shell would split them.
    """

    line: str = field(repr=False)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the source that a command line is.

        Raises:
            UsageError: it is none.
        """
        source = cls(text)
        if "\0" in text or not source._split():
            raise UsageError("command: names no program")
        program = source._split()[0]
        if not program.startswith("/") and ("/" in program or os.geteuid() == 0):
            raise UsageError(
                f"{quoted(source.label)}: the program has no absolute path",
                hint="a name alone is looked for in $PATH, but not for root",
            )
        return source

    @property
    def words(self) -> str:
        """What `parse_source` makes an equal one of."""
        return f"command:{self.line}"

    @property
    def label(self) -> str:
        """The program: arguments may be nobody's business."""
        return f"command:{self._split()[0]}"

    @property
    def seconds(self) -> float:
        """How long it may run; see `Source`."""
        return _SECONDS

    def read(self) -> Secret:
        """Return what it prints; see `Source.read`."""
        environment = _environment()
        words = [self._find(environment), *self._split()[1:]]
        try:
            running = _Running(words, environment)
        except OSError as error:
            raise KeyFileError(f"{quoted(self.label)}: {error.strerror}") from None
        with running:
            reason = running.wait(time.monotonic() + _SECONDS)
            reason = reason or running.failure()
            if reason:
                raise KeyFileError(f"{quoted(self.label)} {reason}")
            return running.output()

    def _split(self) -> list[str]:
        try:
            return shlex.split(self.line)
        except ValueError as error:
            raise UsageError(f"command: {str(error).lower()}") from None

    def _find(self, environment: Mapping[str, str]) -> str:
        """Return the path of the program, which nobody else may have written.

        Raises:
            KeyFileError: it is not there, or must not be started.
        """
        program = self._split()[0]
        if not program.startswith("/"):
            program = shutil.which(program, path=environment["PATH"]) or ""
        if not program.startswith("/"):
            raise KeyFileError(f"{quoted(self.label)}: there is no such program")
        try:
            status = Path(program).stat()
        except OSError as error:
            raise KeyFileError(f"{quoted(self.label)}: {error.strerror}") from None
        if not stat.S_ISREG(status.st_mode) or not os.access(program, os.X_OK):
            raise KeyFileError(f"{quoted(self.label)} is not a program")
        if status.st_uid not in (0, os.geteuid()) or status.st_mode & 0o022:
            raise KeyFileError(
                f"{quoted(self.label)} can be written by others than its owner, "
                "or belongs to another user"
            )
        return program


def _environment() -> dict[str, str]:
    found = {name: os.environ[name] for name in _VARIABLES if name in os.environ}
    if os.geteuid() == 0 or "PATH" not in found:
        found["PATH"] = _ROOTS_PATH
    return found


class _Running:
    """A command, with all that it started.

    Args:
        words: path of the program and its arguments.
        environment: that it gets.

    Raises:
        OSError: it cannot be started.
    """

    def __init__(self, words: list[str], environment: Mapping[str, str]) -> None:
        start = [sys.executable, "-I", "-S", "-c", _START, f"{os.getpid()}"]
        self._process = subprocess.Popen(  # noqa: S603 - a list, no shell
            [*start, *words] if sys.executable else words,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            cwd="/",
            env=environment,
            start_new_session=True,
        )
        self._said = _Said(self._process.stdout, MAX_SIZE)
        self._complained = _Said(self._process.stderr, _ERRORS_SIZE)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._kill()
        for said in (self._said, self._complained):
            said.close()

    def wait(self, deadline: float) -> str:
        """Read until it has ended; return what is wrong, if something is."""
        pidfd = os.pidfd_open(self._process.pid)
        try:
            return self._attend(pidfd, deadline)
        finally:
            os.close(pidfd)

    def _attend(self, pidfd: int, deadline: float) -> str:
        pipes = {said.fd: said for said in (self._said, self._complained)}
        poll = select.poll()
        for fd in (pidfd, *pipes):
            poll.register(fd, select.POLLIN)
        has_ended = False
        while pipes or not has_ended:
            left = 0.0 if has_ended else max(0.0, deadline - time.monotonic())
            events = [fd for fd, _ in poll.poll(left * 1000)]
            if not events:  # somebody else holds its pipes, or it is too slow
                break
            for fd in events:
                if fd != pidfd and pipes[fd].take():
                    continue
                has_ended = has_ended or fd == pidfd
                poll.unregister(fd)
                pipes.pop(fd, None)
            if self._said.is_full:
                return "prints more than a key needs"
        return "" if has_ended else f"does not end within {_SECONDS:g} seconds"

    def failure(self) -> str:
        """Return how it failed, if it did; it has ended, and its group ends now."""
        code = self._kill()
        if code == 0:
            return ""
        how = f"ended with {code}" if code > 0 else f"got {_signal_name(-code)}"
        complaint = self._complaint()
        return f"{how}: {complaint}" if complaint else how

    def output(self) -> Secret:
        """Return what it printed."""
        return taken(self._said.buffer, self._said.size)

    def _kill(self) -> int:
        """End the group, as long as its number is nobody else's; return the code."""
        if self._process.returncode is None:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)
        return self._process.wait()

    def _complaint(self) -> str:
        """Return the end of what it wrote to stderr, unless a secret may be in it."""
        data = bytes(self._complained.content).strip()
        lines = [line.strip() for line in bytes(self._said.content).splitlines()]
        is_secret = any(len(line) >= _SECRET_SIZE and line in data for line in lines)
        if is_secret or b"PRIVATE KEY" in data or b"AGE-SECRET-KEY" in data.upper():
            return "(it wrote a secret to standard error)"
        return quoted(data[-_SHOWN:]) if data else ""


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # of real time
        return f"signal {number}"


class _Said:
    """What came out of a pipe so far, up to a size; the rest is lost."""

    def __init__(self, pipe: IO[bytes] | None, size: int) -> None:
        self._pipe = pipe
        self.buffer = bytearray(size + 1)
        self.size = 0

    @property
    def fd(self) -> int:
        """The descriptor to read from."""
        return self._pipe.fileno() if self._pipe else -1

    @property
    def is_full(self) -> bool:
        """Whether there was more than the size."""
        return self.size == len(self.buffer)

    @property
    def content(self) -> memoryview:
        """What came."""
        return memoryview(self.buffer)[: self.size]

    def take(self) -> bool:
        """Read what is there; return False at the end."""
        if self.is_full:
            return bool(os.read(self.fd, _ERRORS_SIZE))
        with memoryview(self.buffer) as view:
            count = os.readv(self.fd, [view[self.size :]])
        self.size += count
        return count > 0

    def close(self) -> None:
        """Close the pipe, and forget what came."""
        wipe(memoryview(self.buffer))
        if self._pipe:
            self._pipe.close()
