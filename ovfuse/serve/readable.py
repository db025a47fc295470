"""Waiting for one descriptor, whatever its number.

poll(2), since select(2) knows no number above 1023: a keeper has more than that where
many files are open at once. Stateless; any thread.
"""

import math
import select
from typing import Protocol

__all__ = ["wait_readable"]


class _HasFileno(Protocol):
    def fileno(self) -> int: ...


def wait_readable(file: int | _HasFileno, timeout: float | None = None) -> bool:
    """Return whether there is something to read, or the other end is closed.

    Args:
        file: a descriptor, or what has one.
        timeout: seconds; None waits for good.
    """
    poll = select.poll()
    poll.register(file, select.POLLIN)
    return bool(poll.poll(None if timeout is None else math.ceil(timeout * 1000)))
