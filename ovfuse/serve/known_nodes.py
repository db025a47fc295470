"""The nodes that the kernel knows by number, for as long as it does.

Used by the kernel engine. Threading: one lock; entries are immutable but for their
count. The view is told which nodes are known, so that it can close what is not.
"""

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from ovfuse.errors import NotFoundError, SupersededError
from ovfuse.serve.survival.ledger import Counts
from ovfuse.view.contract import Change

if TYPE_CHECKING:
    from ovfuse.view.contract import Node, View

__all__ = ["ROOT_ID", "TAKEN_UP_SECONDS", "Known", "NodeTable"]

TAKEN_UP_SECONDS: Final = 5.0
"""In these the kernel has certainly taken up what it was told."""
ROOT_ID: Final = 1
"""FUSE_ROOT_ID: nobody looks it up."""


@dataclass(slots=True)
class Known:
    """A node that the kernel knows.

    Attributes:
        node: of the view.
        parent: the number of the directory that it was found in.
        path: its place in the mount, for the log; of the root, nothing.
        lookups: how often the kernel was told of it.
    """

    node: "Node"
    parent: int
    path: bytes
    lookups: int = 0


class NodeTable:
    """What LOOKUP and READDIRPLUS told, until FORGET takes it back.

    Args:
        view: whose nodes they are; nobody looks up or forgets its root.
        counts: of lookups, for a successor.
    """

    def __init__(self, view: "View", counts: Counts) -> None:
        self._view: Final = view
        self._counts: Final = counts
        self._known: Final[dict[int, Known]] = {}
        self._unknown: Final[dict[int, int]] = {}
        self._lost: dict[tuple[int, int], float] = {}
        """Since when the kernel does not know what it was told so often."""
        self._lock = threading.Lock()

    def get(self, number: int) -> Known:
        """Return the node of that number.

        Raises:
            SupersededError: it was never told, or is forgotten.
        """
        if number == ROOT_ID:
            return Known(self._view.root, ROOT_ID, b"")
        known = self._known.get(number)
        if known is None:
            raise SupersededError("the kernel asks for a node that it was not told of")
        return known

    def look_up(self, parent: int, name: bytes) -> "Node":
        """Return the child of that name in the node of a number; it is told.

        Raises:
            SupersededError: see `get`.
            OvfuseError: see `View.lookup`.
        """
        try:
            return self._look_up(parent, name)
        except SupersededError:  # and closed, before it was told; so look again
            return self._look_up(parent, name)

    def tell_if_shown(self, parent: Known, name: bytes, node: "Node") -> bool:
        """Tell of an entry, if it is what it was when its directory was opened."""
        with suppress(NotFoundError, SupersededError):
            if self._view.lookup(parent.node, name) is node:
                self.tell(parent, name, node)
                return True
        return False

    def tell(self, parent: Known, name: bytes, node: "Node") -> None:
        """Note that the kernel was told of `node` once more.

        Raises:
            SupersededError: its sealing was closed meanwhile.
        """
        with self._lock:
            before = known = self._known.get(node.number)
            if known is None or known.node is not node:
                self._view.retain(node)
                lookups = known.lookups if known else self._unknown.pop(node.number, 0)
                path = b"%b/%b" % (parent.path, name)
                known = Known(node, parent.node.number, path, lookups)
                self._known[node.number] = known
            known.lookups += 1
            self._counts[node.number] = known.lookups
        if before is not None and before is not known:
            self._view.release(before.node)

    def forget(self, number: int, lookups: int) -> None:
        """Take back as many tellings; a node without any is dropped."""
        with self._lock:
            known = self._known.get(number)
            if known is None:
                left = max(self._unknown.pop(number, 0) - lookups, 0)
                if left:
                    self._unknown[number] = left
                self._counts[number] = left
                return
            known.lookups -= lookups
            self._counts[number] = max(known.lookups, 0)
            if known.lookups > 0:
                return
            del self._known[number]
        self._view.release(known.node)

    def restore(self) -> None:
        """Know what a predecessor told, as far as it still is there.

        The rest stays counted until it is forgotten, for the next one.
        """
        self._unknown.update(dict(self._counts))
        for parent, path, node in self._view.every_node() if self._unknown else ():
            lookups = self._unknown.pop(node.number, 0)
            if lookups:
                self._view.retain(node)
                self._known[node.number] = Known(node, parent, path, lookups)

    def _look_up(self, number: int, name: bytes) -> "Node":
        parent = self.get(number)
        node = self._view.lookup(parent.node, name)
        self.tell(parent, name, node)
        return node

    def parent_of(self, known: Known) -> "Node":
        """Return the directory that a node was found in, or one in its stead."""
        parent = self._known.get(known.parent)
        if parent is None:
            return self._view.root if known.parent == ROOT_ID else known.node
        return parent.node

    def gone(self) -> list[Change]:
        """Return what the kernel remembers of sealings that are gone.

        It may have looked up a name just when the directory above was forgotten,
        and would keep both until it needs the memory.
        """
        with self._lock:
            directories = [k.node for k in self._known.values() if k.node.is_directory]
        changes = []
        for directory in filter(self._view.is_gone, directories):
            children = self._view.children(directory)
            names = [name for name, child in children if child.number in self._known]
            changes += [Change(directory.number, names)] if names else []
        return changes

    def forget_lost(self, is_known: Callable[[int], bool]) -> None:
        """Forget nodes of sealings that are gone and that the kernel has forgotten.

        It said so, but whoever had read that was killed, and nobody says it again.

        Args:
            is_known: asks the kernel about a number. A node that it was told of a
                moment ago may not be known yet: hence it is asked twice.
        """
        with self._lock:
            told = [(n, k.lookups, k.node) for n, k in self._known.items()]
        now, lost = time.monotonic(), {}
        for number, lookups, node in told:
            if not self._view.is_gone(node) or is_known(number):
                continue
            since = self._lost.get((number, lookups), now)
            if now - since < TAKEN_UP_SECONDS:
                lost[number, lookups] = since
            else:
                self.forget(number, lookups)
        self._lost = lost

    def everything(self) -> list[Change]:
        """Return all that the kernel may remember: nodes, and names in them."""
        with self._lock:
            names = {number: list[bytes]() for number in (*self._unknown, *self._known)}
            for known in self._known.values():
                name = known.path.rpartition(b"/")[2]
                names.setdefault(known.parent, []).append(name)
        return [Change(number, found) for number, found in names.items()]

    def __len__(self) -> int:
        return len(self._known)
