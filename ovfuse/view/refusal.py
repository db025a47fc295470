"""Why a model, or the sealing on disk, is refused, and for how long that is believed.

Used by the slot, whose lock guards it.
"""

import logging
import time
from typing import Final

from ovfuse.errors import OvfuseError
from ovfuse.events import Event, about
from ovfuse.quote import quoted
from ovfuse.view.contents import Contents

__all__ = ["Refusal"]

_log = logging.getLogger(__name__)

_RETRY_SECONDS: Final = 5.0


class Refusal:
    """The last refusal of what is in one place; none at first.

    Args:
        place: of the model; empty for a single one.
    """

    def __init__(self, place: str) -> None:
        self._place = place
        self._error: OvfuseError | None = None
        self._since = 0.0

    def __bool__(self) -> bool:
        """Tell whether there is one."""
        return self._error is not None

    @property
    def reason(self) -> str:
        """For people; empty if there is none."""
        return "" if self._error is None else self._error.message

    def raise_again(self) -> None:
        """Raise it, unless it is time to try again.

        Raises:
            OvfuseError: of the kind that it was.
        """
        if self._error is not None and time.monotonic() - self._since < _RETRY_SECONDS:
            raise _again(self._error)

    def retry(self) -> None:
        """Believe it no more: who comes next tries again."""
        self._since = -_RETRY_SECONDS

    def forget(self) -> None:
        """Note that it was opened."""
        self._error = None

    def remember(self, error: OvfuseError, shown: Contents | None) -> None:
        """Note it, and log what is new about it.

        Args:
            error: why.
            shown: what goes on to be shown.
        """
        news = self.reason != error.message
        self._error, self._since = _again(error), time.monotonic()
        if shown is not None and news:
            _log.warning(
                "%s stays version %d: the sealing on disk is refused: %s",
                quoted(self._place) if self._place else "the model",
                shown.facts.version,
                error.message,
                extra=about(Event.REFUSED, **shown.named),
            )
        # A single model is refused only at the start, where the error itself is told.
        elif news and self._place:
            extra = about(Event.REFUSED, path=self._place)
            _log.warning(
                "%s is refused: %s", quoted(self._place), error.message, extra=extra
            )


def _again(error: OvfuseError) -> OvfuseError:
    """Return the same error anew: a traceback keeps alive what its frames hold."""
    return type(error)(error.message, hint=error.hint)
