"""Open files, by the handles that the kernel gives back: the numbers of their nodes.

Used by the kernel engine. Threading: one lock around changes; reading takes none.
"""

import logging
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from ovfuse.errors import OvfuseError, SupersededError
from ovfuse.serve.audit import Audit
from ovfuse.serve.known_nodes import TAKEN_UP_SECONDS
from ovfuse.serve.processes import Caller
from ovfuse.serve.resident import ON_DEMAND, ResidentFiles, Wanted
from ovfuse.serve.resident.policy import is_worth_it
from ovfuse.serve.survival.ledger import Counts
from ovfuse.view.contract import SealingFacts

if TYPE_CHECKING:
    from ovfuse.serve.known_nodes import NodeTable
    from ovfuse.view.contract import Handle, Node, View

__all__ = ["OpenFiles"]

_log = logging.getLogger(__name__)


class OpenFiles:
    """Handles of the view; several of one node are one to the kernel.

    Args:
        resident: keeps files in memory; None where that is not possible.
        choice: which ones, see `policy`.
        counts: of opens, for a successor.
        audit: told who opens what.
    """

    def __init__(
        self,
        resident: ResidentFiles | None,
        choice: str,
        counts: Counts,
        audit: Audit,
    ) -> None:
        self._counts: Final = counts
        self._audit: Final = audit
        self._resident = resident
        self._choice = choice
        self._handles: Final[dict[int, list[Handle]]] = {}
        self._inherited: set[int] = set()
        self._lost: dict[int, tuple[float, list[Handle]]] = {}
        """Since when the kernel does not know what is open here."""
        self._lock = threading.Lock()

    def add(
        self,
        node: "Node",
        handle: "Handle",
        path: bytes,
        caller: Caller,
        *,
        may_fill: bool = True,
    ) -> int:
        """Keep a handle on a node, by the node's number.

        Args:
            node: of the file.
            handle: closed with the last of its node, or if this fails.
            path: of the file in the mount.
            caller: who opens it.
            may_fill: whether it may come to be in memory, if it is not yet.

        Returns:
            the number of the backing file from which the kernel is to serve it, or
            ON_DEMAND.

        Raises:
            OvfuseError: it is to be in memory, and is not what was signed.
        """
        try:
            backing = self._back(node, handle, path, caller.uid, may_fill=may_fill)
            self._audit.opened(caller, handle.sealing)
        except BaseException:
            handle.close()
            raise
        with self._lock:
            # Before those that are lost, which a successor has in the place of some.
            self._handles.setdefault(node.number, []).insert(0, handle)
            self._count(node.number)
        return backing

    def restore(self, view: "View", nodes: "NodeTable") -> None:
        """Open again what was open in a predecessor.

        What cannot be opened stays counted until it is closed: after all, it may be
        possible for the next one.
        """
        for number, opens in tuple(self._counts):
            if self._resident is not None:
                self._resident.restore(number, opens)
            self._handles[number] = _reopened(number, opens, view, nodes)
            self._inherited.add(number)

    def close_lost(self, is_known: Callable[[int], bool]) -> None:
        """Close what is open of files that the kernel has forgotten: nobody has them.

        A predecessor that was killed within a RELEASE left a count too high.

        Args:
            is_known: see `NodeTable.forget_lost`, also for why it is asked twice.
        """
        now, lost = time.monotonic(), {}
        for number in tuple(self._inherited):
            handles = list(self._handles.get(number, ()))
            if not handles:
                self._inherited.discard(number)
            elif not is_known(number):
                since, before = self._lost.get(number, (now, handles))
                if before != handles:
                    since = now
                if now - since < TAKEN_UP_SECONDS:
                    lost[number] = since, handles
                else:
                    self._close_all(number, handles)
        self._lost = lost

    def _close_all(self, number: int, handles: "list[Handle]") -> None:
        """Close a file's handles, unless it was opened or closed meanwhile."""
        with self._lock:
            if self._handles.get(number) != handles:
                return
            del self._handles[number]
            self._count(number)
        for handle in handles:
            self._close(number, handle)

    def _close(self, number: int, handle: "Handle") -> None:
        handle.close()
        if self._resident is not None:
            self._resident.release(number)

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
            self._count(fh)
        self._close(fh, handle)

    def lock(self, *, force: bool) -> bool:
        """Free what is in memory, unless it is in use; tell whether that was done.

        Args:
            force: also what is in use.
        """
        return self._resident is None or self._resident.lock(force=force)

    def close(self) -> None:
        """Close all that is left, of a mount that was detached lazily."""
        for fh in tuple(self._handles):
            while fh in self._handles:
                self.release(fh)
        if self._resident is not None:
            self._resident.close()

    def _back(
        self, node: "Node", handle: "Handle", path: bytes, uid: int, *, may_fill: bool
    ) -> int:
        if self._resident is None:
            return ON_DEMAND
        is_worth = may_fill and is_worth_it(self._choice, path, node.size)
        wanted = Wanted(node.number, node.size, uid, handle.read_whole, is_worth)
        return self._resident.open(wanted)

    def _count(self, number: int) -> None:
        self._counts[number] = len(self._handles.get(number, ()))


class _LostHandle:
    """Of a file that a predecessor had open and that cannot be opened any more."""

    sealing: Final = SealingFacts(0, "", "", 0)

    def read_into(self, _offset: int, _buffer: memoryview) -> int:
        raise SupersededError("it was open when a daemon was killed, and is gone")

    def read_whole(self, buffer: memoryview) -> None:
        self.read_into(0, buffer)

    def close(self) -> None:
        pass


def _reopened(
    number: int, opens: int, view: "View", nodes: "NodeTable"
) -> "list[Handle]":
    """Return as many handles as there were, since each is released."""
    handles: list[Handle] = []
    try:
        node = nodes.get(number).node
        for _ in range(opens):
            handles.append(view.reopen(node))  # noqa: PERF401  those that succeed
    except OvfuseError as error:
        _log.info("a file that was open cannot be read on: %s", error.message)
    return [*handles, *[_LostHandle()] * (opens - len(handles))]
