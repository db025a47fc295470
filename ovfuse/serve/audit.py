"""Who opened which sealed model, and who was denied one: a log line for each.

Used by every engine, on the way of each OPEN: most of them cost the look into a table.
Threading: called by all serving threads at once; one lock guards the tables, and is not
held while /proc is read or a line is written. All memory is bounded: what is forgotten
is told again.
"""

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Generic, TypeVar

from ovfuse.errors import OvfuseError
from ovfuse.events import Event, about
from ovfuse.quote import quoted
from ovfuse.serve.processes import Caller, Process, look_at, start_time

if TYPE_CHECKING:
    from ovfuse.view.contract import SealingFacts

__all__ = ["Audit"]

_log = logging.getLogger(__name__)

_K = TypeVar("_K", bound=Hashable)
_V = TypeVar("_V")

_REMEMBERED: Final = 4096
_ACCOUNTS: Final = 256
_SAME_SECONDS: Final = 0.1
"""Within so short a time one number is one process: of one account, in any case."""
_MINUTE: Final = 60.0
_OPENED_A_MINUTE: Final = 300
_DENIED_A_MINUTE: Final = 20
"""Lines for one account: more would drown those of others."""


class _Recent(Generic[_K, _V]):
    """A table that forgets what was not looked up for longest."""

    def __init__(self, size: int) -> None:
        self._size: Final = size
        self._entries: Final[OrderedDict[_K, _V]] = OrderedDict()

    def get(self, key: _K) -> _V | None:
        entry = self._entries.get(key)
        if entry is not None:
            self._entries.move_to_end(key)
        return entry

    def put(self, key: _K, value: _V) -> None:
        self._entries[key] = value
        self._entries.move_to_end(key)
        if len(self._entries) > self._size:
            self._entries.popitem(last=False)


@dataclass(slots=True)
class _Seen:
    """A thread that has opened a file of a sealing."""

    start: int
    at: float


@dataclass(slots=True)
class _Minute:
    since: float
    lines: int = 0
    held_back: int = 0


class _Quota:
    """So many lines a minute for each account.

    Args:
        lines: as many.
    """

    def __init__(self, lines: int) -> None:
        self._lines: Final = lines
        self._minutes: Final[_Recent[int, _Minute]] = _Recent(_ACCOUNTS)

    def take(self, uid: int) -> str | None:
        """Return what to add to a line about an account; None: no line."""
        now = time.monotonic()
        minute = self._minutes.get(uid)
        before = 0
        if minute is None or now - minute.since >= _MINUTE:
            before = minute.held_back if minute else 0
            minute = _Minute(now)
            self._minutes.put(uid, minute)
        if minute.lines >= self._lines:
            minute.held_back += 1
            return None
        minute.lines += 1
        said = f" ({before} more before)" if before else ""
        if minute.lines == self._lines:
            said += " (no more of this account for a while)"
        return said


class Audit:
    """The audit of one mount, and its counts.

    Args:
        mountpoint: of it; None: nothing is logged, all is counted.
    """

    def __init__(self, mountpoint: Path | None = None) -> None:
        self._place: Final = quoted(mountpoint) if mountpoint is not None else None
        self._lock = threading.Lock()
        self._opens = self._denials = 0
        self._threads: _Recent[tuple[int, ...], _Seen] = _Recent(_REMEMBERED)
        self._told: _Recent[tuple[int | str, ...], float] = _Recent(_REMEMBERED)
        self._opened_lines = _Quota(_OPENED_A_MINUTE)
        self._denied_lines = _Quota(_DENIED_A_MINUTE)

    @property
    def opens(self) -> int:
        """How many files were opened."""
        return self._opens

    @property
    def denials(self) -> int:
        """How many requests were denied for want of a key, of trust, or by terms."""
        return self._denials

    def opened(self, caller: Caller, sealing: "SealingFacts") -> None:
        """Note that a file was opened; log it if the process opened none before.

        Args:
            caller: who did; it still waits for the answer.
            sealing: that the file is of.
        """
        key, now = (*caller, sealing.number), time.monotonic()
        with self._lock:
            self._opens += 1
            if self._place is None:
                return
            seen = self._threads.get(key)
            if seen is not None and now - seen.at < _SAME_SECONDS:
                seen.at = now
                return
        start = start_time(caller.pid)
        if seen is not None and seen.start == start:
            seen.at = now
            return
        process = look_at(caller.pid)
        with self._lock:
            self._threads.put(key, _Seen(start, now))
            who = (process.pid, process.start, caller.uid, sealing.number)
            said = self._opened_lines.take(caller.uid) if self._is_new(who) else None
        if said is not None:
            self._log_opened(caller, process, sealing, said)

    def denied(self, caller: Caller, path: bytes, error: OvfuseError) -> None:
        """Note that a request was denied; log it once a minute for each process.

        Args:
            caller: who asked.
            path: in the mount.
            error: why.
        """
        with self._lock:
            self._denials += 1
            if self._place is None:
                return
            who = (caller.uid, caller.pid, type(error).__name__)
            is_due = self._is_new(who, for_seconds=_MINUTE)
            said = self._denied_lines.take(caller.uid) if is_due else None
        if said is not None:
            self._log_denied(caller, look_at(caller.pid), path, error.message + said)

    def _is_new(
        self, who: tuple[int | str, ...], *, for_seconds: float = float("inf")
    ) -> bool:
        """Tell whether this was not told of, or too long ago; it is now."""
        now = time.monotonic()
        told = self._told.get(who)
        if told is not None and now - told < for_seconds:
            return False
        self._told.put(who, now)
        return True

    def _log_opened(
        self, caller: Caller, process: Process, sealing: "SealingFacts", said: str
    ) -> None:
        _log.info(
            "opened model=%s path=%s version=%d mountpoint=%s %s%s",
            *(quoted(sealing.name), quoted(sealing.path), sealing.version),
            *(self._place, _who(caller, process), said),
            extra=about(
                Event.OPENED,
                model=sealing.name,
                path=sealing.path,
                version=sealing.version,
                **_facts(caller, process),
            ),
        )

    def _log_denied(
        self, caller: Caller, process: Process, path: bytes, reason: str
    ) -> None:
        shown = path.decode("utf-8", "surrogateescape") or "/"
        _log.info(
            "denied path=%s mountpoint=%s %s: %s",
            *(quoted(shown), self._place, _who(caller, process), reason),
            extra=about(Event.DENIED, path=shown, **_facts(caller, process)),
        )


def _who(caller: Caller, process: Process) -> str:
    return (
        f"uid={caller.uid} gid={caller.gid} pid={process.pid} "
        f"exe={quoted(process.exe)} comm={quoted(process.name)}"
    )


def _facts(caller: Caller, process: Process) -> dict[str, str | int]:
    return {
        "uid": caller.uid,
        "gid": caller.gid,
        "pid": process.pid,
        "exe": process.exe,
        "comm": process.name,
    }
