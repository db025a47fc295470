"""The nodes and open files of one unlocked sealing.

Immutable but for what is in use of it: handles on one file share one reader, so that
its block list is in memory once; and a sealing that is not shown any more is closed
when nobody knows a node of it and no file of it is open.
"""

import threading
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace
from typing import Final

from ovfuse.errors import DamagedError, SupersededError
from ovfuse.keys.unlocker import Unlocked
from ovfuse.sealed.parallel import usable_cpus
from ovfuse.sealed.paths import parent_of
from ovfuse.sealed.reader import ObjectReader
from ovfuse.sealed.terms import check_period
from ovfuse.view.contract import ModelStatus, SealingFacts
from ovfuse.view.kept import KeptView
from ovfuse.view.nodes import (
    ROOT_NUMBER,
    DirectoryNode,
    FileNode,
    Numbers,
    node_number,
)

__all__ = ["Contents", "FileHandle"]

_NANOSECONDS: Final = 1_000_000_000


class FileHandle:
    """An open file; see `contract.Handle`."""

    __slots__ = ("_contents", "_key", "_reader")

    def __init__(self, contents: "Contents", key: int, reader: ObjectReader) -> None:
        self._contents = contents
        self._key = key
        self._reader: ObjectReader | None = reader

    @property
    def sealing(self) -> SealingFacts:
        """What it is of."""
        return self._contents.facts

    def read_into(self, offset: int, buffer: memoryview) -> int:
        """Fill `buffer` from `offset`; see `ObjectReader.read_into`."""
        if self._reader is None:
            raise ValueError("the handle is closed")
        return self._reader.read_into(offset, buffer)

    def read_whole(self, buffer: memoryview) -> None:
        """Fill `buffer`, of the file's size; see `Contents.read_whole`."""
        self._contents.read_whole(self._key, buffer)

    def close(self) -> None:
        """Give the reader back; a second call does nothing."""
        reader, self._reader = self._reader, None
        if reader is not None:
            self._contents.give_back(self._key)


class Contents:
    """One sealing as nodes.

    Args:
        unlocked: the sealing, owned from here on.
        place: of the model in the tree, empty for a single one.
        numbers: where inode numbers are claimed.
        is_superseded: tells whether the disk has another sealing in its place.
        kept: told of what a successor needs.

    Attributes:
        root: the model's own directory; of a single model, number 1.
        facts: what people call it.
        pinned: the same by the name of its version. Its directories have numbers of
            their own, since a directory has one place only; its files are the same.

    Raises:
        DamagedError: inode numbers collide.
    """

    def __init__(
        self,
        unlocked: Unlocked,
        *,
        place: str,
        numbers: Numbers,
        is_superseded: "Callable[[Contents], bool]",
        kept: KeptView,
    ) -> None:
        self.sealing: Final = unlocked.sealing
        self.manifest: Final = unlocked.sealing.manifest
        self.payload_sha256: Final = unlocked.envelope.payload_sha256
        self._place = place
        self._mtime_ns = self.manifest.facts.sealed_at * _NANOSECONDS
        self._is_superseded = is_superseded
        self._lock = threading.Lock()
        self._open: dict[int, tuple[ObjectReader, int]] = {}
        self._known_nodes = 0
        self._is_retired = self._is_closed = self._is_elsewhere = False
        self._numbers = numbers
        self.root: Final = self._build()
        self.pinned: Final = self._pin(self.root, "")
        self.facts: Final = SealingFacts(
            self.number, self.manifest.name, place, self.manifest.facts.version
        )
        self._kept = kept
        numbers.claim(self._claims())
        kept.keep_sealing(self.number, place, unlocked)

    @property
    def number(self) -> int:
        """Of the sealing in its place; where it is a model's directory, its inode's."""
        return self._number("")

    @property
    def named(self) -> dict[str, str | int]:
        """The same as `facts`, for log lines."""
        return {
            "model": self.facts.name,
            "path": self.facts.path,
            "version": self.facts.version,
        }

    @property
    def plaintext_size(self) -> int:
        """The bytes of all files."""
        return sum(entry.size for entry in self.manifest.files)

    def is_same(self, unlocked: Unlocked) -> bool:
        """Tell whether it is the same sealing as another one."""
        return self.payload_sha256 == unlocked.envelope.payload_sha256

    @property
    def is_closed(self) -> bool:
        """Whether it was closed."""
        return self._is_closed

    @property
    def is_there(self) -> bool:
        """Whether a file of it is open, or could be opened."""
        with self._lock:
            if self._is_closed:
                return False
            return bool(self._open) or self.sealing.is_on_disk

    @property
    def is_gone(self) -> bool:
        """Whether it is neither shown nor on disk in its place any more."""
        with self._lock:
            if self._is_closed:
                return True
            is_here = self.sealing.is_on_disk and not self._is_elsewhere
            return self._is_retired and not is_here

    def status(self, reason: str, unlocks: int) -> ModelStatus:
        """Return what `status` says about a model of which this is shown."""
        facts = self.manifest.facts
        return ModelStatus(
            name=self.manifest.name,
            path=self._place,
            model_id=facts.model_id,
            version=facts.version,
            state="unlocked",
            reason=reason,
            sealed_at=facts.sealed_at,
            not_after=self.manifest.terms.not_after,
            unlocks=unlocks,
        )

    def open(self, node: FileNode) -> FileHandle:
        """Open a file of it.

        Raises:
            TermsError: the terms ended meanwhile.
            SupersededError: the sealing was replaced on disk and is gone.
            DamagedError, CipherdirError: see `Sealing.open_file`.
        """
        check_period(self.manifest.terms, time.time())
        try:
            return self._open_file(node)
        except DamagedError:
            if self._is_superseded(self):
                raise SupersededError("the sealing was replaced and is gone") from None
            raise

    def reopen(self, node: FileNode, fd: int | None) -> FileHandle:
        """Open a file that was open in a predecessor, whatever the terms are by now.

        Args:
            node: of the file.
            fd: of its object, owned; None: as it is on disk, or open already.

        Raises:
            OvfuseError: as `open`, but for TermsError.
        """
        with self._lock:
            if fd is not None:
                entry = self.manifest.files[node.key]
                reader = self.sealing.reopen_file(entry, fd)
                self._open[node.key] = (reader, 0)
        return self._open_file(node)

    def read_whole(self, key: int, buffer: memoryview) -> None:
        """Fill `buffer` with a whole file, on all processors.

        Raises:
            SupersededError: the sealing was replaced on disk and is gone.
            DamagedError, CipherdirError, MemoryError: see `Sealing.read_file_into`.
        """
        entry = self.manifest.files[key]
        try:
            self.sealing.read_file_into(
                entry, buffer, workers=usable_cpus(), check_hash=False
            )
        except DamagedError:
            if self._is_superseded(self):
                raise SupersededError("the sealing was replaced and is gone") from None
            raise

    def give_back(self, key: int) -> None:
        """Take back one handle; the last one closes the reader."""
        with self._lock:
            reader, count = self._open.pop(key)
            if count > 1:
                self._open[key] = (reader, count - 1)
                return
            # Before anybody opens it again, which keeps it by the same name.
            self._kept.drop_file(self._number(self.manifest.files[key].path))
        reader.close()
        self._close_if_unused()

    def hold(self) -> None:
        """Keep it so that all its files can be opened for as long as it is in use.

        Raises:
            DamagedError, CipherdirError: see `Sealing.hold_objects`.
        """
        with self._lock:
            if not self._is_closed:
                self.sealing.hold_objects()

    def retain(self, count: int = 1) -> None:
        """Note that so many more nodes of it are known.

        Raises:
            SupersededError: it was closed meanwhile.
        """
        with self._lock:
            if self._is_closed:
                raise SupersededError("the sealing was replaced and is gone")
            self._known_nodes += count

    def release(self) -> None:
        """Take back one `retain`."""
        with self._lock:
            self._known_nodes -= 1
        self._close_if_unused()

    def retire(self) -> None:
        """Close it as soon as nothing of it is in use."""
        with self._lock:
            self._is_retired = True
        self._close_if_unused()

    def move_away(self) -> None:
        """Note that it is not in its place any more, though it may be elsewhere."""
        self._is_elsewhere = True

    def revive(self, again: Unlocked) -> bool:
        """Show it again, from where it is now; False if it is too late.

        Args:
            again: the same, opened there; closed unless it is too late.
        """
        with self._lock:
            if self._is_closed:
                return False
            self._is_retired = self._is_elsewhere = False
            self.sealing.renew(again.sealing)
            again.sealing.close()
            kept = replace(again, sealing=self.sealing)
            self._kept.keep_sealing(self.number, self._place, kept)
            return True

    def close(self) -> None:
        """Wipe the key; files that are open go on until they are closed."""
        with self._lock:
            self._close()

    def _close_if_unused(self) -> None:
        with self._lock:
            if self._is_retired and not self._open and self._known_nodes <= 0:
                self._close()

    def _close(self) -> None:
        """Close it; the lock is held, so that its numbers are free when it is gone."""
        if not self._is_closed:
            self._is_closed = True
            # First, since who claims the numbers next keeps it by the same name.
            self._kept.drop_sealing(self.number)
            self._numbers.give_back(self._claims())
            self.sealing.close()

    def _open_file(self, node: FileNode) -> FileHandle:
        key = node.key
        with self._lock:
            if self._is_closed:
                raise SupersededError("the sealing was replaced and is gone")
            reader, count = self._open.get(key, (None, 0))
            if reader is None:
                reader = self.sealing.open_file(self.manifest.files[key])
                self._kept.keep_file(node.number, reader.fd)
            self._open[key] = (reader, count + 1)
        return FileHandle(self, key, reader)

    def _number(self, path: str) -> int:
        return node_number(self.payload_sha256, self._place, path)

    def _claims(self) -> list[int]:
        """Return the numbers of all nodes but number 1."""
        directories = self.manifest.directories
        paths = [*directories, *(file.path for file in self.manifest.files)]
        paths += ["/", *(f"{path}/" for path in directories)]
        paths += [""] if self._place else []
        return [self._number(path) for path in paths]

    def _build(self) -> DirectoryNode:
        """Make all nodes, children before parents."""
        children: defaultdict[str, dict[bytes, FileNode | DirectoryNode]]
        children = defaultdict(dict)
        for key, entry in enumerate(self.manifest.files):
            children[parent_of(entry.path)][_name(entry.path)] = FileNode(
                number=self._number(entry.path),
                size=entry.size,
                mtime_ns=self._mtime_ns,
                owner=self,
                key=key,
            )
        # A directory sorts after its parent, so backwards is bottom-up.
        for path in reversed(self.manifest.directories):
            children[parent_of(path)][_name(path)] = self._directory(
                self._number(path), children.pop(path, {})
            )
        number = self._number("") if self._place else ROOT_NUMBER
        return self._directory(number, children.pop("", {}))

    def _directory(
        self, number: int, children: dict[bytes, FileNode | DirectoryNode]
    ) -> DirectoryNode:
        return DirectoryNode(
            number=number,
            mtime_ns=self._mtime_ns,
            subdirectories=sum(node.is_directory for node in children.values()),
            owner=self,
            children=dict(sorted(children.items())),
        )

    def _pin(self, directory: DirectoryNode, path: str) -> DirectoryNode:
        """Copy a directory and those below it, under other numbers."""
        below = f"{path}/" if path else ""
        return replace(
            directory,
            number=self._number(f"{path}/"),
            children={
                name: self._pin(child, below + name.decode())
                if isinstance(child, DirectoryNode)
                else child
                for name, child in directory.children.items()
            },
        )


def _name(path: str) -> bytes:
    return path.rpartition("/")[2].encode()
