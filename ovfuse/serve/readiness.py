"""Waits until the mount answers; only then is anybody told that it is ready.

Used by the lifecycle. Threading: a thread of its own that lives until the mount
answers or the engine has ended.
"""

import os
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Final, Self

__all__ = ["ReadinessWatch", "mounted_device"]

_INTERVAL_SECONDS: Final = 0.01
_READAHEAD_KIB: Final = 2048
"""Two of the largest requests, so that one is decrypted while another is copied."""


class ReadinessWatch:
    """Calls `on_ready` with the mount's device number, once, when it answers.

    Args:
        answers: returns the device number, or None as long as it does not answer.
        on_ready: called in the thread of the watch.
    """

    def __init__(
        self, answers: Callable[[], int | None], on_ready: Callable[[int], None]
    ) -> None:
        self._answers = answers
        self._on_ready = on_ready
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="readiness")

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
        self._thread.join()

    def _watch(self) -> None:
        while not self._ended.wait(_INTERVAL_SECONDS):
            device = self._answers()
            if device is not None:
                _raise_readahead(device)
                self._on_ready(device)
                return


def mounted_device(mountpoint: Path) -> Callable[[], int | None]:
    """Return what tells the number of the device that comes to be at a mountpoint."""
    before = mountpoint.stat().st_dev

    def device() -> int | None:
        with suppress(OSError):
            now = mountpoint.stat().st_dev
            return None if now == before else now
        return None

    return device


def _raise_readahead(device: int) -> None:
    """Let the kernel read further ahead; its default for FUSE is 128 KiB."""
    numbers = f"{os.major(device)}:{os.minor(device)}"
    with suppress(OSError):  # only root may, and not in every container
        Path(f"/sys/class/bdi/{numbers}/read_ahead_kb").write_text(f"{_READAHEAD_KIB}")
