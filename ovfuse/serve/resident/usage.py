"""What of a mount is in memory, for `status`.

Any thread.
"""

from collections.abc import Callable

__all__ = ["Usage"]


class Usage:
    """How many files are resident and how many bytes they are, or that none can be."""

    def __init__(self) -> None:
        self._count: Callable[[], tuple[int, int]] | None = None

    def follow(self, count: Callable[[], tuple[int, int]]) -> None:
        """Ask `count` from now on."""
        self._count = count

    @property
    def files_and_bytes(self) -> tuple[int, int] | None:
        """Both numbers; None where files cannot be resident."""
        return self._count() if self._count else None
