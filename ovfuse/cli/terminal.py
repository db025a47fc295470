"""The rules of the terminal, once: nothing else in ovfuse prints.

What a command was asked for goes to standard output (`say`); everything else to
standard error: `note`, `warning`, `error`, `hint`, progress. No line can carry
control characters of a stranger's making.
"""

import io
import json
import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ovfuse.quote import printable
from ovfuse.serve.journal import writes_to_journal

__all__ = [
    "error",
    "finish",
    "hint",
    "log_to_stderr",
    "note",
    "prepare_streams",
    "progress",
    "say",
    "say_json",
    "size_text",
    "warning",
]

_STEP = 1024
_ERROR, _WARNING, _NOTE = 3, 4, 6
"""syslog's levels, which systemd takes off a line for the journal."""


def prepare_streams() -> None:
    """Make the standard streams usable, whatever the caller left of them.

    A closed one becomes /dev/null: else the next file that is opened would get its
    number. A name that the encoding of standard output lacks is escaped.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    if sys.stdout is None:
        sys.stdout = os.fdopen(1, "w")
    if sys.stderr is None:
        sys.stderr = os.fdopen(2, "w")
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def finish() -> bool:
    """Write out what was printed; return whether it arrived."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:  # such as `ovfuse verify | head`
        pass
    except OSError as problem:
        error(f"standard output: {problem.strerror}")
    else:
        return True
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # or the last flush fails again
    return False


def say(text: str) -> None:
    """Print a line of the result."""
    print(printable(text))


def say_json(value: object) -> None:
    """Print the result as JSON, ASCII only."""
    print(json.dumps(value, indent=2))


def note(text: str) -> None:
    """Tell something on the way."""
    _tell(_NOTE, f"ovfuse: {printable(text)}")


def warning(text: str) -> None:
    """Tell something that the user may want to change."""
    _tell(_WARNING, f"ovfuse: warning: {printable(text)}")


def error(text: str) -> None:
    """Tell why the command failed, in one line."""
    _tell(_ERROR, f"ovfuse: error: {printable(text)}")


def hint(text: str) -> None:
    """Tell what can be done about the error."""
    _tell(_NOTE, f"hint: {printable(text)}")


def _tell(level: int, line: str) -> None:
    before = f"<{level}>" if writes_to_journal() else ""
    print(before + line, file=sys.stderr)


class _LogHandler(logging.Handler):
    """Tells what the layers below log as notes and warnings."""

    def emit(self, record: logging.LogRecord) -> None:
        tell = warning if record.levelno > logging.INFO else note
        tell(record.getMessage())


_handler = _LogHandler()


def log_to_stderr(wanted: bool) -> None:
    """Tell what is logged, or no more: a mount has a log of its own."""
    logger = logging.getLogger("ovfuse")
    logger.removeHandler(_handler)
    logger.propagate = not wanted
    if wanted:
        logger.setLevel(logging.INFO)
        logger.addHandler(_handler)


def size_text(size: int) -> str:
    """Return a size in bytes for people: `1.5 GiB`."""
    amount = float(size)
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if amount < _STEP:
            return f"{amount:.0f} {unit}" if unit == "bytes" else f"{amount:.1f} {unit}"
        amount /= _STEP
    return f"{amount:.1f} TiB"


@contextmanager
def progress(
    title: str,
) -> Iterator[tuple[Callable[[int], None], Callable[[int], None]]]:
    """Show a progress bar if standard error is a terminal.

    Yields:
        Two functions: set the total, and advance, both in bytes.
    """
    if not sys.stderr.isatty():
        yield (lambda _: None), (lambda _: None)
        return
    from rich import progress as rich_progress
    from rich.console import Console

    with rich_progress.Progress(
        rich_progress.TextColumn("{task.description}"),
        rich_progress.BarColumn(),
        rich_progress.DownloadColumn(binary_units=True),
        rich_progress.TransferSpeedColumn(),
        rich_progress.TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    ) as bar:
        task = bar.add_task(title, total=None)
        yield (
            lambda total: bar.update(task, total=total),
            lambda count: bar.advance(task, count),
        )
