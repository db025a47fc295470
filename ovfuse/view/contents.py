"""The nodes and open files of one unlocked sealing.

Immutable but for the table of open files: handles on one file share one reader, so
that its block list is in memory once.
"""

import threading
from collections import defaultdict
from typing import Final

from ovfuse.keys.unlocker import Unlocked
from ovfuse.sealed.paths import parent_of
from ovfuse.sealed.reader import ObjectReader
from ovfuse.view.nodes import DirectoryNode, FileNode, Numbers, node_number

__all__ = ["Contents", "FileHandle"]

_NANOSECONDS: Final = 1_000_000_000


class FileHandle:
    """An open file; see `contract.Handle`."""

    __slots__ = ("_contents", "_key", "_reader")

    def __init__(self, contents: "Contents", key: int, reader: ObjectReader) -> None:
        self._contents = contents
        self._key = key
        self._reader: ObjectReader | None = reader

    def read_into(self, offset: int, buffer: memoryview) -> int:
        """Fill `buffer` from `offset`; see `ObjectReader.read_into`."""
        if self._reader is None:
            raise ValueError("the handle is closed")
        return self._reader.read_into(offset, buffer)

    def close(self) -> None:
        """Give the reader back; a second call does nothing."""
        reader, self._reader = self._reader, None
        if reader is not None:
            self._contents.release(self._key)


class Contents:
    """One sealing as nodes.

    Args:
        unlocked: the sealing, owned from here on.
        place: of the model in the tree, empty for a single one.
        numbers: where inode numbers are claimed.
        owner: what the nodes name as their owner.
        root_number: of the model's own directory.

    Raises:
        DamagedError: inode numbers collide.
    """

    def __init__(
        self,
        unlocked: Unlocked,
        *,
        place: str,
        numbers: Numbers,
        owner: object,
        root_number: int,
    ) -> None:
        self.sealing: Final = unlocked.sealing
        self.manifest: Final = unlocked.sealing.manifest
        self._owner = owner
        self._place = place
        self._payload_sha256 = unlocked.envelope.payload_sha256
        self._mtime_ns = self.manifest.facts.sealed_at * _NANOSECONDS
        self._lock = threading.Lock()
        self._open: dict[int, tuple[ObjectReader, int]] = {}
        self.root: Final = self._build(root_number)
        numbers.claim(self._numbers())

    @property
    def plaintext_size(self) -> int:
        """The bytes of all files."""
        return sum(entry.size for entry in self.manifest.files)

    def open(self, key: int) -> FileHandle:
        """Open the file number `key` of the manifest.

        Raises:
            DamagedError, CipherdirError: see `Sealing.open_file`.
        """
        with self._lock:
            reader, count = self._open.get(key) or (
                self.sealing.open_file(self.manifest.files[key]),
                0,
            )
            self._open[key] = (reader, count + 1)
        return FileHandle(self, key, reader)

    def release(self, key: int) -> None:
        """Take back one handle; the last one closes the reader."""
        with self._lock:
            reader, count = self._open.pop(key)
            if count > 1:
                self._open[key] = (reader, count - 1)
                return
        reader.close()

    def close(self) -> None:
        """Wipe the key; files that are open go on until they are closed."""
        self.sealing.close()

    def _number(self, path: str) -> int:
        return node_number(self._payload_sha256, self._place, path)

    def _numbers(self) -> list[int]:
        paths = [*self.manifest.directories, *(f.path for f in self.manifest.files)]
        return [self._number(path) for path in paths]

    def _build(self, root_number: int) -> DirectoryNode:
        """Make all nodes, children before parents."""
        children: defaultdict[str, dict[bytes, FileNode | DirectoryNode]]
        children = defaultdict(dict)
        for key, entry in enumerate(self.manifest.files):
            children[parent_of(entry.path)][_name(entry.path)] = FileNode(
                number=self._number(entry.path),
                size=entry.size,
                mtime_ns=self._mtime_ns,
                owner=self._owner,
                key=key,
            )
        # A directory sorts after its parent, so backwards is bottom-up.
        for path in reversed(self.manifest.directories):
            children[parent_of(path)][_name(path)] = self._directory(
                self._number(path), children.pop(path, {})
            )
        return self._directory(root_number, children.pop("", {}))

    def _directory(
        self, number: int, children: dict[bytes, FileNode | DirectoryNode]
    ) -> DirectoryNode:
        return DirectoryNode(
            number=number,
            mtime_ns=self._mtime_ns,
            subdirectories=sum(node.is_directory for node in children.values()),
            owner=self._owner,
            children=dict(sorted(children.items())),
        )


def _name(path: str) -> bytes:
    return path.rpartition("/")[2].encode()
