"""What a service manager is told while a mount is served: that it answers, and how.

Used by the lifecycle of a mount in the foreground. Threading: a thread of its own,
which asks the mount as any program would. If the mount hangs, so does it, and is
silent; nobody waits for it.
"""

import os
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Final, Self

from ovfuse.quote import quoted
from ovfuse.serve.notify import watchdog_seconds

if TYPE_CHECKING:
    from ovfuse.serve.background import Launch
    from ovfuse.serve.engine import Setup
    from ovfuse.view.contract import ModelStatus

__all__ = ["Reporter", "summary"]

_INTERVAL_SECONDS: Final = 5.0
_PER_WATCHDOG: Final = 6
"""Reports in the time that a service manager waits for one; a keeper waits for half."""
_REASONS_MAX: Final = 3
_LENGTH_MAX: Final = 800


class Reporter:
    """Reports from `start` to the end of the context.

    Args:
        setup: of the mount.
        launch: told.
    """

    def __init__(self, setup: "Setup", launch: "Launch") -> None:
        self._setup = setup
        self._launch = launch
        self._ended = threading.Event()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()

    def start(self) -> None:
        """Report now, and again and again."""
        threading.Thread(target=self._report, name="reporting", daemon=True).start()

    def _report(self) -> None:
        patience = watchdog_seconds() / _PER_WATCHDOG
        interval = min(patience or _INTERVAL_SECONDS, _INTERVAL_SECONDS)
        while not self._ended.is_set():
            with suppress(OSError):  # it is unmounted
                os.statvfs(self._setup.mountpoint)  # which no cache answers
            self._launch.report(summary(self._setup))
            self._ended.wait(interval)


def summary(setup: "Setup") -> str:
    """Return one line about a mount."""
    if setup.keeping.is_locked:
        return "locked"
    models = setup.view.status()
    refused = sum(model.state == "refused" for model in models)
    text = f"serving {_counted(len(models) - refused, 'model')}"
    if refused:
        text += f", {refused} refused"
    if failed := setup.failures.failed_reads:
        text += f", {_counted(failed, 'failed read')}"
    reasons = [_reason(model) for model in models if model.reason]
    text = "; ".join([text, *reasons[:_REASONS_MAX]])
    if more := len(reasons[_REASONS_MAX:]):
        text += f"; {more} more"
    return text[:_LENGTH_MAX]


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _reason(model: "ModelStatus") -> str:
    return f"{quoted(model.path or model.name)}: {model.reason}"
