"""Open files, by the handles that the kernel gives back: the numbers of their nodes.

Threading: one lock around changes; reading takes none.
"""

import threading
from typing import TYPE_CHECKING, Final

from ovfuse.errors import SupersededError

if TYPE_CHECKING:
    from ovfuse.view.contract import Handle

__all__ = ["OpenFiles"]


class OpenFiles:
    """Handles of the view; several of one node are one to the kernel."""

    def __init__(self) -> None:
        self._handles: Final[dict[int, list[Handle]]] = {}
        self._lock = threading.Lock()

    def add(self, number: int, handle: "Handle") -> int:
        """Keep a handle on the node of that number; return the kernel's."""
        with self._lock:
            self._handles.setdefault(number, []).append(handle)
        return number

    def get(self, fh: int) -> "Handle":
        """Return a handle to read from.

        Raises:
            SupersededError: nothing is open by that number.
        """
        handles = self._handles.get(fh)
        if not handles:
            raise SupersededError("the kernel reads from a file that is not open")
        return handles[0]

    def release(self, fh: int) -> None:
        """Close one of the handles."""
        with self._lock:
            handles = self._handles.get(fh)
            if not handles:
                return
            handle = handles.pop()
            if not handles:
                del self._handles[fh]
        handle.close()

    def close(self) -> None:
        """Close all that is left, of a mount that was detached lazily."""
        for fh in tuple(self._handles):
            while fh in self._handles:
                self.release(fh)
