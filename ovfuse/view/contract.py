"""What a served tree is: the contract between the view and those who serve it.

Implemented in this folder, used by serve/. The tree is made of nodes, not of paths;
those of a sealing are immutable. Every method may be called by many threads at once.
Looking inside a sealed model that is still locked unlocks it in the calling thread.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

__all__ = ["Change", "Handle", "ModelStatus", "Node", "SealingFacts", "View"]


class Node(Protocol):
    """A file or directory of one sealing, or a directory of a tree."""

    @property
    def number(self) -> int:
        """The inode number: 64 bits, the same in every process; the root's is 1."""

    @property
    def is_directory(self) -> bool:
        """Whether it has children; otherwise it is a regular file."""

    @property
    def size(self) -> int:
        """The plaintext size in bytes; 0 for directories."""

    @property
    def mtime_ns(self) -> int:
        """The sealing time, in nanoseconds since the epoch.

        In a tree, what is shown before a model is unlocked has its own mtime.
        """

    @property
    def subdirectories(self) -> int:
        """How many of its children are directories, for the link count."""


@dataclass(frozen=True, slots=True)
class SealingFacts:
    """What people call a sealing.

    Attributes:
        number: 64 bits that no other sealing in another place has.
        name: the signed name of the model.
        path: its place in the tree, empty for a single sealed model.
        version: counted from 1.
    """

    number: int
    name: str
    path: str
    version: int


class Handle(Protocol):
    """An open file. It outlives the removal of its object from the disk."""

    @property
    def sealing(self) -> SealingFacts:
        """What it is of."""

    def read_into(self, offset: int, buffer: memoryview) -> int:
        """Fill `buffer` from `offset`; return the number of bytes, short at the end.

        Raises:
            DamagedError: the bytes are not those that were sealed.
        """

    def read_whole(self, buffer: memoryview) -> None:
        """Fill `buffer`, of the file's size in bytes, faster than in parts.

        It is verified as a whole; after an error nothing of it is left in the buffer.

        Raises:
            DamagedError: the bytes are not those that were sealed.
            SupersededError: its object is not on disk any more; parts can be read.
            CipherdirError: the object cannot be read.
            MemoryError: there is none behind the buffer.
        """

    def close(self) -> None:
        """Give back what the handle holds; further reads are an error."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelStatus:
    """What `status` says about one sealed model.

    Attributes:
        name: the signed name, empty while nothing vouches for it.
        path: its place in the tree, empty for a single sealed model.
        model_id: lowercase hex, empty while unknown.
        version: counted from 1, 0 while unknown.
        state: `locked` (nobody looked inside yet), `unlocked` or `refused`.
        reason: why it, or the sealing on disk, is refused, or that another
            sealing waits; else empty.
        sealed_at: the sealing time, in seconds since the epoch; 0 while unknown.
        not_after: when the terms end, likewise; None if never, or while unknown.
        unlocks: how many sealings this process has unlocked in this place.
    """

    name: str = ""
    path: str
    model_id: str = ""
    version: int = 0
    state: str
    reason: str
    sealed_at: int = 0
    not_after: int | None = None
    unlocks: int = 0


@dataclass(frozen=True, slots=True)
class Change:
    """What was told of a directory and is so no more.

    Attributes:
        directory: its number; its attributes are others, too.
        names: of entries that are gone, or other nodes now.
    """

    directory: int
    names: Sequence[bytes]


class View(Protocol):
    """The plaintext tree of a cipherdir."""

    @property
    def root(self) -> Node:
        """The directory that the mountpoint shows."""

    def lookup(self, parent: Node, name: bytes) -> Node:
        """Return the child of that name.

        Raises:
            NotFoundError, NameTooLongError, NotADirectoryNodeError: as their names say.
            NoUsableKeyError, TermsError, DamagedError, UntrustedError,
            CipherdirError: the sealed model `parent` cannot be unlocked.
        """

    def children(self, node: Node) -> Sequence[tuple[bytes, Node]]:
        """Return the entries of a directory in the order of their names' bytes.

        Raises as `lookup`.
        """

    def open(self, node: Node) -> Handle:
        """Open a file: its object and its block list, checked, at once.

        Raises:
            IsADirectoryNodeError: it is a directory.
            SupersededError: it belongs to a sealing that is gone.
            DamagedError: the object or its list is not what was signed.
        """

    def reopen(self, node: Node) -> Handle:
        """Open a file that was open in a process which was killed.

        Raises as `open`, but never because the terms have ended meanwhile.
        """

    def every_node(self) -> Iterator[tuple[int, bytes, Node]]:
        """Yield all that such a process may have told of.

        Yields:
            the number of a directory that it is in, its path, the node.
        """

    def retain(self, node: Node) -> None:
        """Note that a node is known outside, so that its sealing stays open.

        Only who calls `follow` needs this.

        Raises:
            SupersededError: it was closed since the node was looked up.
        """

    def release(self, node: Node) -> None:
        """Take back one `retain`."""

    def is_gone(self, node: Node) -> bool:
        """Tell whether a node's sealing is neither shown nor on disk any more."""

    def follow(
        self, tell: Callable[[Sequence[Change]], None]
    ) -> AbstractContextManager[None]:
        """Show what changes on disk for as long as the context lasts.

        Without, the view stays with the models that it found and with the sealings
        that it unlocked. With it, `lookup` also knows NAME@VERSION in a tree, and
        @VERSION in the root of a single model.

        Args:
            tell: called in a thread of the view's, which does nothing else, with
                what is to be forgotten; what was shown is closed afterwards.
        """

    def totals(self) -> tuple[int, int]:
        """Return plaintext bytes and files of all that is unlocked."""

    def status(self) -> list[ModelStatus]:
        """Return one entry per sealed model."""

    def close(self) -> None:
        """Wipe the keys; handles that are open go on until they are closed."""
