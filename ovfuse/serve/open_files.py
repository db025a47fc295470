"""Open files, by the handles that the kernel gives back: the numbers of their nodes.

Used by the kernel engine. Threading: one lock around changes; reading takes none.
"""

import threading
from typing import TYPE_CHECKING, Final

from ovfuse.errors import SupersededError
from ovfuse.serve.resident import ON_DEMAND, ResidentFiles, Wanted
from ovfuse.serve.resident.policy import is_worth_it

if TYPE_CHECKING:
    from ovfuse.view.contract import Handle, Node

__all__ = ["OpenFiles"]


class OpenFiles:
    """Handles of the view; several of one node are one to the kernel.

    Args:
        resident: keeps files in memory; None where that is not possible.
        choice: which ones, see `policy`.
    """

    def __init__(self, resident: ResidentFiles | None, choice: str) -> None:
        self._resident = resident
        self._choice = choice
        self._handles: Final[dict[int, list[Handle]]] = {}
        self._lock = threading.Lock()

    def add(self, node: "Node", handle: "Handle", path: bytes, uid: int) -> int:
        """Keep a handle on a node, by the node's number.

        Args:
            node: of the file.
            handle: closed with the last of its node, or if this fails.
            path: of the file in the mount.
            uid: who opens it.

        Returns:
            the number of the backing file from which the kernel is to serve it, or
            ON_DEMAND.

        Raises:
            OvfuseError: it is to be in memory, and is not what was signed.
        """
        try:
            backing = self._back(node, handle, path, uid)
        except BaseException:
            handle.close()
            raise
        with self._lock:
            self._handles.setdefault(node.number, []).append(handle)
        return backing

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
        if self._resident is not None:
            self._resident.release(fh)

    def close(self) -> None:
        """Close all that is left, of a mount that was detached lazily."""
        for fh in tuple(self._handles):
            while fh in self._handles:
                self.release(fh)
        if self._resident is not None:
            self._resident.close()

    def _back(self, node: "Node", handle: "Handle", path: bytes, uid: int) -> int:
        if self._resident is None:
            return ON_DEMAND
        is_worth = is_worth_it(self._choice, path, node.size)
        wanted = Wanted(node.number, node.size, uid, handle.read_whole, is_worth)
        return self._resident.open(wanted)
