"""Where log lines go: to the journal or syslog, to stderr, to a file, or nowhere.

Used by the lifecycle, once per process. Every line passes through printable(),
so that a name chosen by a stranger cannot steer a terminal. Threading: as the
logging module's.
"""

import logging
import logging.handlers
import os
import stat
from pathlib import Path
from typing import Final, TextIO

from ovfuse.errors import UsageError, describe
from ovfuse.quote import printable, quoted
from ovfuse.serve.journal import JOURNAL, JournalHandler, writes_to_journal

__all__ = ["Logs"]

_SYSLOG: Final = Path("/dev/log")
_BINDING: Final = "fuse"  # mfusepy's logger: we log what matters ourselves


class _Formatter(logging.Formatter):
    """One printable line per record, an exception's trace on the same line."""

    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))

    def formatException(self, ei: object) -> str:  # noqa: N802  logging's name
        error = ei[1] if isinstance(ei, tuple) else None
        return describe(error) if error else ""


class _TerminalFormatter(_Formatter):
    """As the command line prints: `ovfuse: warning: ...`."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802
        level = f"{record.levelname.lower()}: "
        return f"ovfuse: {level * (record.levelno > logging.INFO)}{record.message}"


class Logs:
    """The log of one mount: stderr at first, then the place that was asked for.

    Where stderr is the journal's, lines go to that with their fields.

    Args:
        file: the value of `-o log=`, or None.
        mountpoint: what the lines are about.

    Raises:
        UsageError: the file cannot be written to.
    """

    def __init__(self, file: Path | None, mountpoint: Path) -> None:
        self._file = None if file is None else _file_handler(file)
        self._mountpoint = mountpoint
        self._is_service = writes_to_journal()
        self._start = _stderr_handler()
        if self._is_service and JOURNAL.exists():
            self._start = self._to_journal(self._start)
        self._current: list[logging.Handler] = []
        logger = logging.getLogger("ovfuse")
        logger.setLevel(logging.INFO)
        logger.propagate = False
        logging.getLogger(_BINDING).setLevel(logging.CRITICAL)
        self._use(self._start)

    def settle(self, *, background: bool) -> None:
        """Log to the final place: the mount is ready."""
        if self._file is not None:
            self._use(self._file)
        elif background:
            elsewhere = _syslog_handler()
            is_there = JOURNAL.exists()
            self._use(self._to_journal(elsewhere) if is_there else elsewhere)

    def close(self) -> None:
        """Close the file; nothing more is logged."""
        self._use(None)
        if self._file is not None:
            self._file.close()
            self._file.stream.close()

    def _to_journal(self, fallback: logging.Handler) -> logging.Handler:
        handler = JournalHandler(
            self._mountpoint, fallback, is_service=self._is_service
        )
        handler.setFormatter(_Formatter("%(message)s"))
        return handler

    def _use(self, handler: logging.Handler | None) -> None:
        for name in ("ovfuse", _BINDING):
            logger = logging.getLogger(name)
            for old in self._current:
                logger.removeHandler(old)
            if handler is not None:
                logger.addHandler(handler)
        self._current = [] if handler is None else [handler]


def _stderr_handler() -> logging.Handler:
    handler: logging.StreamHandler[TextIO] = logging.StreamHandler()
    handler.setFormatter(_TerminalFormatter())
    return handler


def _file_handler(path: Path) -> "logging.StreamHandler[TextIO]":
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        # O_NONBLOCK: opening a FIFO that nobody reads must not hang.
        descriptor = os.open(path, flags | os.O_NONBLOCK, 0o600)
    except OSError as error:
        reason = error.strerror
        raise UsageError(
            f"the log file {quoted(path)} cannot be opened: {reason}"
        ) from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise UsageError(f"the log file {quoted(path)} is not a regular file")
    stream = os.fdopen(descriptor, "w", encoding="utf-8", errors="backslashreplace")
    handler: logging.StreamHandler[TextIO] = logging.StreamHandler(stream)
    handler.setFormatter(_Formatter("%(asctime)s %(levelname)s %(message)s"))
    return handler


def _syslog_handler() -> logging.Handler:
    if not _SYSLOG.exists():
        return logging.NullHandler()
    try:
        handler = logging.handlers.SysLogHandler(
            os.fspath(_SYSLOG), facility=logging.handlers.SysLogHandler.LOG_DAEMON
        )
    except OSError:
        return logging.NullHandler()
    handler.ident = f"ovfuse[{os.getpid()}]: "
    handler.setFormatter(_Formatter("%(message)s"))
    return handler
