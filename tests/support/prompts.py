"""Commands that ask on a terminal: a real one of their own, and somebody who types."""

import os
import select
import subprocess
import termios
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from tests.support.mounting import TIMEOUT_SECONDS, Home
from tests.support.waiting import wait_until

__all__ = ["Asked", "Typed", "asking", "type_into"]

_PROMPT_END = b": "


@dataclass(frozen=True, kw_only=True)
class Typed:
    """What came of it.

    Attributes:
        code: the exit code.
        stdout: not on the terminal.
        stderr: likewise.
        screen: what the terminal showed.
    """

    code: int
    stdout: str
    stderr: str
    screen: str


def type_into(
    home: Home,
    *arguments: str | os.PathLike[str],
    answers: Sequence[str] = (),
    hides_late: bool = False,
) -> Typed:
    """Run a command on a terminal; answer each prompt with the next line.

    Args:
        home: of who runs it.
        arguments: of the command.
        answers: never to be seen on the terminal.
        hides_late: whether the program prompts before the terminal shows nothing, as
            age(1) does and ovfuse must not.
    """
    terminal, its_end = os.openpty()
    command = ["setsid", "--ctty", *home.program, *arguments]
    with subprocess.Popen(
        command,
        env=home.environment,
        cwd=home.directory,
        stdin=its_end,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        os.close(its_end)
        screen = b""
        for answer in answers:
            screen += _read_prompt(terminal)
            if hides_late:
                wait_until(lambda: not _echoes(terminal))
            os.write(terminal, answer.encode() + b"\n")
        stdout, stderr = process.communicate(timeout=TIMEOUT_SECONDS)
    screen += _rest(terminal)
    os.close(terminal)
    assert not any(answer.encode() in screen for answer in answers if answer)
    return Typed(
        code=process.returncode, stdout=stdout, stderr=stderr, screen=screen.decode()
    )


class Asked:
    """A command that asks, in a terminal that outlives it."""

    def __init__(self, terminal: int, process: "subprocess.Popen[bytes]") -> None:
        self._terminal = terminal
        self._process = process
        self.code = -1

    @property
    def echoes(self) -> bool:
        """Whether the terminal shows what is typed."""
        return _echoes(self._terminal)

    def type(self, keys: bytes) -> None:
        """Press keys."""
        os.write(self._terminal, keys)

    def answer(self, line: str) -> None:
        """Type a line."""
        self.type(line.encode() + b"\n")

    def end(self) -> int:
        """Wait for the end of the command, as it may be killed; return its code."""
        assert self._process.stdout is not None
        self.code = int(self._process.stdout.readline())
        return self.code


@contextmanager
def asking(home: Home, *arguments: str | os.PathLike[str]) -> Iterator[Asked]:
    """Run an ovfuse command on a terminal until it asks for something.

    A shell is there before and after it, as the terminal's first process.
    """
    terminal, its_end = os.openpty()
    script = 'trap : INT HUP TERM; "$@" >/dev/null; echo $?; read -r rest'
    command = ["setsid", "--ctty", "sh", "-c", script, "sh", *home.program]
    with subprocess.Popen(
        [*command, *arguments],
        env=home.environment,
        cwd=home.directory,
        stdin=its_end,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as process:
        try:
            _read_prompt(terminal)
            yield Asked(terminal, process)
        finally:
            os.write(terminal, b"\n")
            os.close(its_end)
            os.close(terminal)


def _echoes(terminal: int) -> bool:
    return bool(termios.tcgetattr(terminal)[3] & termios.ECHO)


def _read_prompt(terminal: int) -> bytes:
    shown = b""
    while not shown.endswith(_PROMPT_END):
        ready, _, _ = select.select([terminal], [], [], TIMEOUT_SECONDS)
        assert ready, shown
        try:
            shown += os.read(terminal, 4096)
        except OSError:  # the command has ended
            raise AssertionError(f"no prompt: {shown!r}") from None
    return shown


def _rest(terminal: int) -> bytes:
    os.set_blocking(terminal, False)
    rest = b""
    try:
        while piece := os.read(terminal, 4096):
            rest += piece
    except OSError:
        pass
    return rest
