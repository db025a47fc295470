"""Waiting for a state instead of sleeping; 30 s at most."""

import time
from collections.abc import Callable

__all__ = ["wait_until"]

_SECONDS = 30.0


def wait_until(condition: Callable[[], object]) -> None:
    """Return as soon as the condition holds.

    Raises:
        TimeoutError: it did not in 30 s.
    """
    deadline = time.monotonic() + _SECONDS
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {_SECONDS:.0f} s")
        time.sleep(0.01)
