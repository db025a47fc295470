"""The directory of a model that is still locked.

Used by the slot. Whoever got this node stays with the sealing that the first look
inside unlocked, whatever is shown later. Threading: one lock around changes.
"""

import threading
from collections.abc import Callable, Mapping
from typing import Final

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
        if generation:  # it has another number than the first one
            kept.bind(place, generation, "")
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
        generation = self._generation + 1
        return Entrance(self._look, self._place, mtime_ns, self._kept, generation)

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
        return self._bound or self._bind(self._look())

    def leads_to(self, contents: Contents) -> bool:
        """Tell whether who knows the node is, or now comes to be, with `contents`."""
        return self.is_out and self._bind(contents) is contents

    def retain(self) -> None:
        """Note that the node is known."""
        with self._lock:
            self._known += 1
            self.is_out = True
            if self._bound is not None:
                self._bound.retain()
                if self._known == 1:
                    self._note(self._bound)

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

    def inherit(self, kept: KeptEntrance, in_use: Mapping[str, Contents]) -> "Entrance":
        """Return the entrance of this place that a predecessor had.

        Args:
            kept: what it left of it.
            in_use: its sealings by payload hash.
        """
        time = self.node.mtime_ns
        same = Entrance(self._look, self._place, time, self._kept, kept.generation)
        if kept.payload_sha256 in in_use:
            same._bind(in_use[kept.payload_sha256])
        elif kept.payload_sha256:  # what it led to is lost, and so is it
            return same.next(time)
        return same

    def _note(self, contents: Contents) -> None:
        self._kept.bind(self._place, self._generation, contents.payload_sha256)

    def _bind(self, contents: Contents) -> Contents:
        with self._lock:
            if self._bound is None:
                self._bound = contents
                self._note(contents)
                for _ in range(self._known):
                    contents.retain()
            return self._bound
