"""A view held in memory: what engines and the lifecycle need, and no key.

A directory on disk is read once. Some names misbehave on purpose: `damaged`
cannot be read and `superseded` cannot be opened; `locked` cannot be looked into,
and looking into `slow` takes, until the file named by $OVFUSE_TEST_GATE exists. Who is
at work on that is in a file beside it, with the suffix `.slow`. If $OVFUSE_TEST_CHANGES
is set, the kernel is told that `slow` has changed, whenever there is a file with the
suffix `.change`.
"""

import hashlib
import itertools
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

from ovfuse.errors import (
    DamagedError,
    IsADirectoryNodeError,
    NotADirectoryNodeError,
    NotFoundError,
    NoUsableKeyError,
    SupersededError,
)
from ovfuse.view.contract import Change, ModelStatus, SealingFacts
from tests.support.waiting import wait_until

MTIME_NS = 1_700_000_000_123_456_789

# 64 components, 4,095 bytes: the largest of the format. A directory `deep` of the
# source holds it, whatever is in there.
DEEPEST_PATH = (b"deep", *[b"d" * 64] * 62, b"f" * 60)


@dataclass(eq=False, slots=True)
class MemoryNode:
    """A node of the contract, with its content."""

    name: bytes
    number: int
    is_directory: bool
    content: bytes = b""
    mtime_ns: int = MTIME_NS
    entries: dict[bytes, "MemoryNode"] = field(default_factory=dict)

    @property
    def size(self) -> int:
        return len(self.content)

    @property
    def subdirectories(self) -> int:
        return sum(node.is_directory for node in self.entries.values())


class MemoryHandle:
    """An open file of the memory view."""

    sealing = SealingFacts(1, "memory", "", 1)

    def __init__(self, node: MemoryNode, count: Callable[[], object]) -> None:
        self._node = node
        self._count = count

    def read_into(self, offset: int, buffer: memoryview) -> int:
        if self._node.name == b"damaged":
            raise DamagedError("block 0 is corrupted or tampered with")
        self._count()
        piece = self._node.content[offset : offset + len(buffer)]
        buffer[: len(piece)] = piece
        return len(piece)

    def read_whole(self, buffer: memoryview) -> None:
        self.read_into(0, buffer)

    def close(self) -> None:
        pass


class MemoryView:
    """The view of a directory on disk, as it was when this was made."""

    def __init__(self, directory: Path) -> None:
        self.root = _read(directory)
        self.root.number = 1
        self._reads = itertools.count()

    def lookup(self, parent: MemoryNode, name: bytes) -> MemoryNode:
        if not parent.is_directory:
            raise NotADirectoryNodeError("a file")
        _check_unlocked(parent)
        try:
            return parent.entries[name]
        except KeyError:
            raise NotFoundError("no such name") from None

    def children(self, node: MemoryNode) -> Sequence[tuple[bytes, MemoryNode]]:
        if not node.is_directory:
            raise NotADirectoryNodeError("a file")
        _check_unlocked(node)
        return sorted(node.entries.items())

    def open(self, node: MemoryNode) -> MemoryHandle:
        if node.is_directory:
            raise IsADirectoryNodeError("a directory")
        if node.name == b"superseded":
            raise SupersededError("the sealing was replaced and is gone")
        return MemoryHandle(node, lambda: next(self._reads))

    def reopen(self, node: MemoryNode) -> MemoryHandle:
        return self.open(node)

    def every_node(self) -> Iterator[tuple[int, bytes, MemoryNode]]:
        return _below(self.root, b"")

    def retain(self, node: MemoryNode) -> None:
        pass

    def release(self, node: MemoryNode) -> None:
        pass

    def is_gone(self, node: MemoryNode) -> bool:
        return False

    def follow(
        self, tell: Callable[[Sequence[Change]], None]
    ) -> AbstractContextManager[None]:
        if os.environ.get("OVFUSE_TEST_CHANGES"):
            threading.Thread(target=self._change, args=[tell], daemon=True).start()
        return nullcontext()

    def _change(self, tell: Callable[[Sequence[Change]], None]) -> None:
        wait_until(_gate().with_suffix(".change").exists)
        _gate().with_suffix(".change").unlink()
        tell([Change(self.root.entries[b"slow"].number, [b"inner.txt"])])

    def totals(self) -> tuple[int, int]:
        files = [node for node in _walk(self.root) if not node.is_directory]
        return sum(node.size for node in files), len(files)

    def status(self) -> list[ModelStatus]:
        return [
            ModelStatus(
                name="memory",
                path="",
                model_id="00" * 16,
                version=1,
                state="unlocked",
                reason=f"{self._reads}",  # such as `count(3)`
            )
        ]

    def close(self) -> None:
        if closed := os.environ.get("OVFUSE_TEST_CLOSED"):
            Path(closed).touch()


def _read(path: Path) -> MemoryNode:
    name = os.fsencode(path.name)
    digest = hashlib.sha256(os.fsencode(path)).digest()
    number = int.from_bytes(digest[:8], "big") | 2
    if not path.is_dir():
        return MemoryNode(name, number, is_directory=False, content=path.read_bytes())
    node = MemoryNode(name, number, is_directory=True)
    if name == DEEPEST_PATH[0]:
        node.entries[DEEPEST_PATH[1]] = _chain(DEEPEST_PATH[1:])
        return node
    for entry in path.iterdir():
        node.entries[os.fsencode(entry.name)] = _read(entry)
    return node


def _below(parent: MemoryNode, path: bytes) -> Iterator[tuple[int, bytes, MemoryNode]]:
    for name, node in parent.entries.items():
        yield parent.number, path + b"/" + name, node
        yield from _below(node, path + b"/" + name)


def _chain(names: Sequence[bytes]) -> MemoryNode:
    if len(names) == 1:
        return MemoryNode(names[0], 64, is_directory=False, content=b"deep")
    node = MemoryNode(names[0], len(names), is_directory=True)
    node.entries[names[1]] = _chain(names[1:])
    return node


def _walk(node: MemoryNode) -> list[MemoryNode]:
    return [node, *(n for child in node.entries.values() for n in _walk(child))]


def _check_unlocked(node: MemoryNode) -> None:
    if node.name == b"locked" and not _gate().exists():
        raise NoUsableKeyError("no identity opens it")
    if node.name == b"slow":
        _gate().with_suffix(".slow").write_text(f"{os.getpid()}")
        wait_for_gate()


def _gate() -> Path:
    return Path(os.environ["OVFUSE_TEST_GATE"])


def wait_for_gate() -> None:
    wait_until(_gate().exists)
