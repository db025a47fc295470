"""Immutable nodes and their numbers: the same in every process, from content alone.

Used by the rest of view/. A number is a 64-bit hash, so that a process that takes
over a mount computes the one that the kernel already knows.
"""

import hashlib
import threading
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final, Protocol

from ovfuse.errors import DamagedError

__all__ = [
    "NO_PAYLOAD",
    "ROOT_NUMBER",
    "UNKNOWN_SUBDIRECTORIES",
    "DirectoryNode",
    "FileNode",
    "Numbers",
    "Owner",
    "node_number",
    "walk",
]

ROOT_NUMBER: Final = 1
_RESERVED: Final = frozenset({0, ROOT_NUMBER})
NO_PAYLOAD: Final = "00" * 32

# Makes the link count 1, which find(1) and fts(3) read as "unknown".
UNKNOWN_SUBDIRECTORIES: Final = -1


def node_number(payload_sha256: str, place: str, path: str) -> int:
    """Return the inode number of `path` in the sealing at `place` in the tree.

    The first 8 bytes, big endian, of SHA-256 over payload hash, length of the place
    (4 bytes, big endian), place, path.
    """
    where = place.encode()
    digest = hashlib.sha256(bytes.fromhex(payload_sha256))
    digest.update(len(where).to_bytes(4, "big") + where + path.encode())
    return int.from_bytes(digest.digest()[:8], "big")


class Numbers:
    """The numbers in use in one view; what collides is refused."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._used = set(_RESERVED)

    def claim(self, numbers: Iterable[int]) -> None:
        """Take all of `numbers`, or none.

        Raises:
            DamagedError: one is reserved, taken, or there twice.
        """
        wanted = list(numbers)
        with self._lock:
            twice = len(set(wanted)) != len(wanted)
            if twice or not self._used.isdisjoint(wanted):
                raise DamagedError("two files would have the same inode number")
            self._used.update(wanted)

    def give_back(self, numbers: Iterable[int]) -> None:
        """Take back a claim: nothing of these numbers is shown any more."""
        with self._lock:
            self._used.difference_update(numbers)


class Owner(Protocol):
    """What a node belongs to, which counts who knows nodes of it."""

    @property
    def is_gone(self) -> bool:
        """Whether it is neither shown nor on disk any more."""

    def retain(self) -> None:
        """Note that one more node of it is known.

        Raises:
            SupersededError: it was closed meanwhile.
        """

    def release(self) -> None:
        """Take back one `retain`."""


@dataclass(frozen=True, slots=True, eq=False)
class FileNode:
    """A file of one sealing. `key` finds it among the sealing's files."""

    number: int
    size: int
    mtime_ns: int
    owner: Owner
    key: int
    is_directory: bool = field(default=False, init=False)
    subdirectories: int = field(default=0, init=False)


@dataclass(frozen=True, slots=True, eq=False)
class DirectoryNode:
    """A directory of a sealing, or of a model that nobody looked into yet."""

    number: int
    mtime_ns: int
    subdirectories: int
    owner: Owner
    children: Mapping[bytes, "FileNode | DirectoryNode"] = field(default_factory=dict)
    is_directory: bool = field(default=True, init=False)
    size: int = field(default=0, init=False)


def walk(
    parent: int, path: bytes, node: FileNode | DirectoryNode
) -> Iterator[tuple[int, bytes, FileNode | DirectoryNode]]:
    """Yield a node and all below it: number of the parent, path, node.

    Args:
        parent: the number of the directory that it is in.
        path: its own, in the mount.
        node: to begin with.
    """
    yield parent, path, node
    if isinstance(node, DirectoryNode):
        for name, child in node.children.items():
            yield from walk(node.number, path + b"/" + name, child)
