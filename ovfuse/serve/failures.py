"""What goes wrong while serving: turned into an errno, counted, logged sparingly.

Used by every engine and by the status of a mount. Threading: `record` is called
by all serving threads at once; one lock guards the counts. A reader that tries
the same broken file for ever costs one log line a minute.
"""

import errno
import logging
import threading
import time
from dataclasses import dataclass
from typing import Final

from ovfuse.errors import NoUsableKeyError, OvfuseError, describe
from ovfuse.events import Event, about
from ovfuse.quote import quoted
from ovfuse.serve.audit import Audit
from ovfuse.serve.errnos import DENIALS, ORDINARY, errno_of
from ovfuse.serve.processes import NOBODY, Caller

__all__ = ["Failures"]

_log = logging.getLogger(__name__)

_QUIET_SECONDS: Final = 60.0
_MAX_REMEMBERED: Final = 1024
_READS: Final = frozenset({"open", "read"})


@dataclass(slots=True)
class _Told:
    at: float
    held_back: int = 0


class Failures:
    """The failures of one mount.

    Args:
        audit: told of what is denied.
    """

    def __init__(self, audit: Audit | None = None) -> None:
        self._audit = audit or Audit()
        self._lock = threading.Lock()
        self._failed_reads = 0
        self._told: dict[tuple[str, str], _Told] = {}

    @property
    def failed_reads(self) -> int:
        """How many opens and reads of files were answered with an error."""
        with self._lock:
            return self._failed_reads

    def record(
        self, operation: str, path: bytes, error: Exception, caller: Caller = NOBODY
    ) -> int:
        """Return the errno for `error`; count and log it if it is out of order.

        Args:
            operation: what the kernel asked for, such as `open` or `read`.
            path: the place in the mount, for the log.
            error: what the view raised.
            caller: who asked for it.
        """
        code = errno_of(error)
        if code in ORDINARY:
            return code
        if isinstance(error, DENIALS):
            self._audit.denied(caller, path, error)
        with self._lock:
            self._failed_reads += operation in _READS
            held_back = self._held_back((path.hex(), type(error).__name__))
        if held_back is not None:
            more = f" ({held_back} more like it)" if held_back else ""
            is_ours = isinstance(error, OvfuseError)
            reason = str(error) if is_ours else describe(error)
            extra = about(Event.FAILED, path=path.decode("utf-8", "surrogateescape"))
            _log.error(
                "%s %s: %s%s", operation, quoted(path), reason, more, extra=extra
            )
        return code

    def refuse(self, caller: Caller) -> int:
        """Return the errno for whoever asks for content of a mount that is locked."""
        self._audit.denied(caller, b"", NoUsableKeyError("the mount is locked"))
        return errno.EACCES

    def _held_back(self, what: tuple[str, str]) -> int | None:
        """Return None to stay quiet, else how often we stayed quiet before."""
        now = time.monotonic()
        told = self._told.get(what)
        if told is not None and now - told.at < _QUIET_SECONDS:
            told.held_back += 1
            return None
        if len(self._told) >= _MAX_REMEMBERED:
            # Forgetting costs a repeated line; remembering all, unbounded memory.
            self._told.clear()
        self._told[what] = _Told(now)
        return told.held_back if told else 0
