"""Calls somebody when something below a directory may have changed.

inotify, by watchdog, says so at once; without it, or where it has no room for all
directories, there is a look every few seconds. Threading: what is called runs in one
thread of the watch's own, and never twice at a time.
"""

import logging
import os
import threading
import time
import warnings
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self

from ovfuse.errors import describe

if TYPE_CHECKING:
    from watchdog.observers.api import BaseObserver

__all__ = ["Watch"]

_log = logging.getLogger(__name__)

_QUIET_SECONDS: Final = 0.05
_LONGEST_WAIT_SECONDS: Final = 0.5
_POLL_SECONDS: Final = 5.0
_SAFETY_SECONDS: Final = 60.0
"""Also with inotify: it knows nothing of a network, of time, or of what it missed."""
_REST: Final = 4.0
"""Between two calls, at least so many times what the last one took."""
_POLL_REST: Final = 50.0
_PROBE: Final = "/proc"
"""A directory that is not watched yet: watching it shows whether there is room."""


def warm_up() -> None:
    """Import what a watch needs."""
    from watchdog import events, observers  # noqa: F401, PLC0415


class Watch:
    """Watches a directory and all below it, not through symbolic links.

    Args:
        directory_fd: of the directory, wherever it is renamed to.
        work: called once at the beginning, and after every change, when it has been
            quiet for a moment or has not been for long.
    """

    def __init__(self, directory_fd: int, work: Callable[[], None]) -> None:
        self._directory_fd = directory_fd
        self._work = work
        self._changed = threading.Event()
        self._ended = threading.Event()
        self._observer: BaseObserver | None = None
        self._poll_seconds = _SAFETY_SECONDS
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        self._ended.set()
        self._changed.set()
        self._thread.join()

    def wake(self) -> None:
        """Let the work be done soon."""
        self._changed.set()

    def _run(self) -> None:
        self._start_observer()
        try:
            while not self._ended.is_set():
                started = time.monotonic()
                try:
                    self._work()
                except Exception as error:  # noqa: BLE001  the next may go well
                    _log.error("cannot follow a change: %s", describe(error))
                self._check_room()
                self._wait(time.monotonic() - started)
        finally:
            self._stop_observer()

    def _wait(self, seconds_worked: float) -> None:
        """Wait for a change and the quiet after it, or until it is time for a look."""
        self._ended.wait(seconds_worked * _REST)
        poll_seconds = max(self._poll_seconds, seconds_worked * _POLL_REST)
        if not self._changed.wait(poll_seconds):
            return
        end = time.monotonic() + _LONGEST_WAIT_SECONDS
        while time.monotonic() < end and not self._ended.is_set():
            self._changed.clear()
            if not self._changed.wait(_QUIET_SECONDS):
                return
        self._changed.clear()

    def _start_observer(self) -> None:
        # Imported here, so that nobody waits for it.
        from watchdog import events  # noqa: PLC0415
        from watchdog.observers import Observer  # noqa: PLC0415

        # It comes upon a new directory twice, by an event and by looking, and says so.
        warnings.filterwarnings("ignore", "Callback with id", RuntimeWarning)
        # Not reading, of which there is much, nor each write to a file that grows.
        kinds: list[type[events.FileSystemEvent]] = [
            *(events.DirCreatedEvent, events.DirMovedEvent, events.DirDeletedEvent),
            *(events.FileCreatedEvent, events.FileMovedEvent, events.FileDeletedEvent),
            events.FileClosedEvent,
        ]
        changed = self._changed

        class Handler(events.FileSystemEventHandler):
            def on_any_event(self, event: events.FileSystemEvent) -> None:  # noqa: ARG002  whatever it is
                changed.set()

        try:
            self._observer = Observer()
            path = f"/proc/self/fd/{self._directory_fd}/."
            self._observer.schedule(Handler(), path, recursive=True, event_filter=kinds)
            self._observer.start()
        except (OSError, RuntimeError) as error:  # the latter by a limit of processes
            self._poll_instead(error)

    def _check_room(self) -> None:
        """Find out whether a new directory could be watched: watchdog does not say."""
        if self._observer is None:
            return
        from watchdog.events import (  # noqa: PLC0415
            DirDeletedEvent,
            FileSystemEventHandler,
        )

        try:
            probe = self._observer.schedule(
                FileSystemEventHandler(), _PROBE, event_filter=[DirDeletedEvent]
            )
            self._observer.unschedule(probe)
        except (OSError, RuntimeError) as error:
            self._poll_instead(error)

    def _poll_instead(self, error: OSError | RuntimeError) -> None:
        number = error.errno if isinstance(error, OSError) else None
        self._stop_observer()
        self._poll_seconds = _POLL_SECONDS
        _log.warning(
            "inotify cannot watch the cipherdir (%s): a look every %d seconds instead; "
            "see fs.inotify in sysctl(8)",
            os.strerror(number) if number else error,
            _POLL_SECONDS,
        )

    def _stop_observer(self) -> None:
        observer, self._observer = self._observer, None
        if observer is None:
            return
        observer.stop()
        if observer.is_alive():
            observer.join()
