"""SIGTERM, SIGINT and SIGHUP while an engine serves: a clean stop.

Used by the lifecycle. The engine runs in a thread; the main thread waits for it
and for signals, which arrive over a pipe. From before the mount to after it there
is no moment at which one of them could kill the process and leave the mount.
"""

import os
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Any, Final, Self

from ovfuse.serve.engine import Engine
from ovfuse.serve.readable import wait_readable

__all__ = ["StopSignals"]

_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_ENDED: Final = 0  # what no signal is numbered
_INTERVAL_SECONDS: Final = 0.05
_GRACE_SECONDS: Final = 2.0


class StopSignals:
    """Takes the signals over for as long as the context lasts; main thread only."""

    def __enter__(self) -> Self:
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._writer, False)
        # More bytes than the pipe holds would say nothing new.
        self._fd_before = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        self._handlers_before: list[Any] = [
            # The byte in the pipe is all that a signal does.
            signal.signal(number, lambda *_: None)
            for number in _SIGNALS
        ]
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        for number, handler in zip(_SIGNALS, self._handlers_before, strict=True):
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._fd_before)
        os.close(self._reader)
        os.close(self._writer)

    def request(self) -> None:
        """Do as if a signal had come; any thread may."""
        self._write(signal.SIGTERM)

    def run(
        self, engine: Engine, stopping: Callable[[], None], gone: Callable[[], bool]
    ) -> None:
        """Run the engine to its end; on the first signal, stop it.

        Args:
            engine: what it raises is raised here.
            stopping: called once, before it is stopped.
            gone: whether its mount has left the tree, as one does that is unmounted
                lazily: then nothing reaches an engine that serves files which are
                still open, and it is left to end with the process.
        """
        raised: list[Exception] = []

        def run() -> None:
            try:
                engine.run()
            except Exception as error:  # noqa: BLE001  raised again below
                raised.append(error)
            finally:
                self._write(_ENDED)

        thread = threading.Thread(target=run, name="engine", daemon=True)
        thread.start()
        if self._wait(None) != _ENDED:
            stopping()
            self._stop(engine, thread, gone)
        else:
            thread.join()
        if raised:
            raise raised[0]

    def _stop(
        self, engine: Engine, thread: threading.Thread, gone: Callable[[], bool]
    ) -> None:
        left_at = None
        while thread.is_alive() and self._wait(_INTERVAL_SECONDS) != _ENDED:
            engine.stop()
            if not gone():
                left_at = None
            elif left_at is None:
                left_at = time.monotonic()
            elif time.monotonic() - left_at > _GRACE_SECONDS:
                return
        thread.join()

    def _wait(self, timeout: float | None) -> int | None:
        """Return the next byte of the pipe; None if none came in time."""
        if not wait_readable(self._reader, timeout):
            return None
        return os.read(self._reader, 1)[0]

    def _write(self, byte: int) -> None:
        with suppress(OSError):  # full of signals, or closed with the engine left
            os.write(self._writer, bytes([byte]))
