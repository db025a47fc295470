"""Open files and directories, by the handles that the kernel gives back.

A file's handle is the number of its node, a directory's counts up. Threading: one
lock around changes; reading takes none.
"""

import itertools
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from ovfuse.errors import SupersededError

if TYPE_CHECKING:
    from ovfuse.view.contract import Handle, Node

__all__ = ["Listing", "OpenDirectories", "OpenFiles"]

Listing = Sequence[tuple[bytes, "Node"]]


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


class OpenDirectories:
    """Listings as they were when the directory was opened."""

    def __init__(self) -> None:
        self._listings: Final[dict[int, Listing]] = {}
        self._numbers = itertools.count(1)

    def add(self, listing: Listing) -> int:
        """Keep a listing; return the kernel's handle."""
        fh = next(self._numbers)
        self._listings[fh] = listing
        return fh

    def get(self, fh: int) -> Listing:
        """Return the listing.

        Raises:
            SupersededError: nothing is open by that number.
        """
        try:
            return self._listings[fh]
        except KeyError:
            raise SupersededError("the kernel lists what is not open") from None

    def release(self, fh: int) -> None:
        """Drop the listing."""
        self._listings.pop(fh, None)
