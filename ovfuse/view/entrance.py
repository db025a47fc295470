"""The directory of a model that is still locked.

Used by the slot. Whoever got this node stays with the sealing that the first look
inside unlocked, whatever is shown later. Threading: one lock around changes.
"""

import threading
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import Final

from ovfuse.errors import SupersededError
from ovfuse.view.contents import Contents
from ovfuse.view.kept import KeptEntrance, KeptView
from ovfuse.view.nodes import (
    NO_PAYLOAD,
    UNKNOWN_SUBDIRECTORIES,
    DirectoryNode,
    node_number,
)

__all__ = ["Entrance"]


class Entrance:
    """The owner of a locked model's node.

    Args:
        look: returns what the model shows, unlocking it if need be.
        place: of the model in the tree.
        mtime_ns: of its directory on disk.
        kept: told of what a successor needs.
        generation: how many went before in this place and may still be known.
    """

    def __init__(
        self,
        look: Callable[[], Contents],
        place: str,
        mtime_ns: int,
        kept: KeptView,
        generation: int = 0,
    ) -> None:
        self._look = look
        self._place = place
        self._kept = kept
        self._generation = generation
        self._lock = threading.Lock()
        self._bound: Contents | None = None
        self._known = 0
        self.is_out = False
        """Whether somebody got the node and may still know it."""
        # No path of a manifest begins with a slash.
        path = f"/{generation}" if generation else ""
        self.node: Final = DirectoryNode(
            number=node_number(NO_PAYLOAD, place, path),
            mtime_ns=mtime_ns,
            subdirectories=UNKNOWN_SUBDIRECTORIES,
            owner=self,
        )

    def next(self, mtime_ns: int) -> "Entrance":
        """Return the entrance of another model in this place."""
        return self._of_generation(self._generation + 1, mtime_ns)

    @property
    def is_gone(self) -> bool:
        """Whether what it leads to is neither shown nor on disk any more."""
        bound = self._bound
        return bound is not None and bound.is_gone

    def hand_out(self) -> DirectoryNode:
        """Return the node, and note that somebody got it."""
        self.is_out = True
        return self.node

    def contents(self) -> Contents:
        """Return what it leads to.

        Raises:
            OvfuseError: see `ModelSlot.contents`.
        """
        if self._bound is not None:
            return self._bound
        try:
            return self._bind(self._look())
        except SupersededError:  # and closed since that look
            return self._bind(self._look())

    def leads_to(self, contents: Contents) -> bool:
        """Tell whether who knows the node is, or now comes to be, with `contents`."""
        with suppress(SupersededError):
            return self.is_out and self._bind(contents) is contents
        return False

    def retain(self) -> None:
        """Note that the node is known.

        Raises:
            SupersededError: what it leads to was closed meanwhile.
        """
        with self._lock:
            if self._bound is not None:
                self._bound.retain()
            self._known += 1
            self.is_out = True
            if self._known == 1:
                self._note()

    def release(self) -> None:
        """Take back one `retain`."""
        with self._lock:
            self._known -= 1
            self.is_out = self._known > 0
            bound = self._bound
            if not self.is_out:
                self._kept.unbind(self._place, self._generation)
        if bound is not None:
            bound.release()

    def inherit(
        self,
        entrances: Iterable[KeptEntrance],
        in_use: Mapping[str, Contents],
        *,
        shown: Contents | None,
    ) -> "tuple[list[Entrance], Entrance]":
        """Return the entrances of this place that a predecessor had, and the last.

        Args:
            entrances: what it left of them, the oldest first.
            in_use: its sealings by payload hash.
            shown: the one that is shown.
        """
        before: list[Entrance] = []
        last, generation, bound = self, self._generation, None
        for kept in entrances:
            if kept.generation > generation:  # else it has the same node
                before.append(last)
            generation, bound = kept.generation, in_use.get(kept.payload_sha256)
            if kept.payload_sha256 and bound is None:  # lost, and so is the node
                generation += 1
            last = self._of_generation(generation, self.node.mtime_ns, bound)
        if bound is not None and bound is not shown:
            before.append(last)
            last = last.next(self.node.mtime_ns)
        return before, last

    def _of_generation(
        self, generation: int, mtime_ns: int, bound: Contents | None = None
    ) -> "Entrance":
        made = Entrance(self._look, self._place, mtime_ns, self._kept, generation)
        made._bound = bound
        return made

    def _note(self) -> None:
        """Leave it to a successor, which knows by itself the first of a place."""
        bound = self._bound
        if bound is not None or self._generation:
            payload = "" if bound is None else bound.payload_sha256
            self._kept.bind(self._place, self._generation, payload)

    def _bind(self, contents: Contents) -> Contents:
        """Lead to `contents` from now on, unless it leads somewhere already.

        Raises:
            SupersededError: they were closed meanwhile.
        """
        with self._lock:
            if self._bound is None:
                contents.retain(self._known)
                self._bound = contents
                self._note()
            return self._bound
