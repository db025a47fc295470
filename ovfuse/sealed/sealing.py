"""An unlocked sealing: its manifest, and its files by manifest entry.

Used by the view, the loader, `verify` and `decrypt`. It may be used by many threads;
only its owner closes it.
"""

import os
import resource
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple, Self

from ovfuse.errors import CipherdirError, DamagedError
from ovfuse.sealed import beneath, layout
from ovfuse.sealed.blocks import BlockList
from ovfuse.sealed.manifest import FileEntry, Manifest
from ovfuse.sealed.offsets import PREFIX_SIZE, block_list_size, message_size
from ovfuse.sealed.primitives import ChunkDecryptor, derived_key, object_context
from ovfuse.sealed.reader import ObjectReader, ScratchPool
from ovfuse.sealed.stream import plaintext_pieces
from ovfuse.sealed.whole import read_whole
from ovfuse.secret import Secret

__all__ = ["Sealing", "SealingFiles"]


_HELD_PART: Final = 16
"""One sealing holds at most this part of the descriptors; most have a handful."""


class SealingFiles(NamedTuple):
    """Descriptors of a sealing's directory: they outlive its removal from the disk."""

    envelope: int
    blocks: int
    objects: int

    def close(self) -> None:
        """Close all of them."""
        for fd in self:
            os.close(fd)


class Sealing:
    """An unlocked sealing: its manifest, and its files by manifest entry.

    Owns the model key and three descriptors, so that its files can be opened as
    long as they exist, wherever the directory is by then.

    Args:
        manifest: decrypted and checked.
        files: of the same sealing.
        model_key: the key.
        pool: for the readers of its files.
    """

    def __init__(
        self,
        manifest: Manifest,
        files: SealingFiles,
        model_key: Secret,
        pool: ScratchPool,
    ) -> None:
        self.manifest: Final = manifest
        self._files: SealingFiles | None = files
        self._model_key = model_key
        self._pool = pool
        self._list_offsets = _list_offsets(manifest)
        self._held: dict[str, int] = {}

    @classmethod
    def in_directory(
        cls,
        manifest: Manifest,
        directory_fd: int,
        model_key: Secret,
        pool: ScratchPool,
    ) -> Self:
        """Open the files in a sealing's directory.

        Raises:
            DamagedError, CipherdirError: one is not as it must be.
        """
        fds: list[int] = []
        try:
            name, what = layout.ENVELOPE_NAME, "envelope"
            fds.append(beneath.open_regular(name, directory_fd, what)[0])
            name, what = layout.BLOCKS_NAME, "file of block lists"
            fd, size = beneath.open_regular(name, directory_fd, what)
            fds.append(fd)
            if size != manifest.blocks_size:
                raise DamagedError("the file of block lists has a wrong size")
            name, what = layout.OBJECTS_NAME, "directory objects"
            fds.append(beneath.open_directory(name, directory_fd, what))
        except BaseException:
            for fd in fds:
                os.close(fd)
            raise
        return cls(manifest, SealingFiles(*fds), model_key, pool)

    @property
    def files(self) -> SealingFiles:
        """The descriptors; closed by `close`.

        Raises:
            CipherdirError: it is closed.
        """
        if self._files is None:
            raise CipherdirError("the sealing is closed")
        return self._files

    @property
    def model_key(self) -> Secret:
        """The key; wiped by `close`."""
        return self._model_key

    def open_file(self, entry: FileEntry) -> ObjectReader:
        """Open a file for random access: object, list and prefix, all checked.

        Raises:
            DamagedError: object or list are missing, or not what was signed.
            CipherdirError: they cannot be read.
        """
        return self._reader(entry, *self._open_object(entry))

    def reopen_file(self, entry: FileEntry, fd: int) -> ObjectReader:
        """Open a file whose object is open already, as `fd`, which is owned.

        Raises:
            DamagedError, CipherdirError: as `open_file`.
        """
        size = os.fstat(fd).st_size
        return self._reader(entry, *self._check_object(entry, fd, size))

    def _reader(
        self, entry: FileEntry, fd: int, prefix: bytes, blocks: BlockList
    ) -> ObjectReader:
        try:
            chunks = self._chunks(entry, prefix)
        except BaseException:
            os.close(fd)
            raise
        return ObjectReader(
            fd,
            plaintext_size=entry.size,
            padded_size=entry.padded_size,
            blocks=blocks,
            chunks=chunks,
            pool=self._pool,
        )

    def stream_file(self, entry: FileEntry) -> Iterator[memoryview]:
        """Yield a whole file's plaintext; see `plaintext_pieces`.

        Raises:
            DamagedError, CipherdirError: as `open_file`.
        """
        fd, prefix, blocks = self._open_object(entry)
        try:
            yield from plaintext_pieces(
                fd,
                entry,
                prefix=prefix,
                blocks=blocks,
                model_key=self._model_key.view,
                context=object_context(self.manifest.facts.seal_id, entry.object_id),
            )
        finally:
            os.close(fd)

    def read_file_into(
        self, entry: FileEntry, target: memoryview, *, workers: int, check_hash: bool
    ) -> None:
        """Read a whole file into a buffer of its size in bytes; see `read_whole`.

        Raises:
            DamagedError, CipherdirError: as `open_file`.
            MemoryError: there is none behind the buffer.
        """
        fd, prefix, blocks = self._open_object(entry)
        try:
            read_whole(
                fd,
                entry,
                prefix=prefix,
                blocks=blocks,
                model_key=self._model_key.view,
                context=object_context(self.manifest.facts.seal_id, entry.object_id),
                target=target,
                workers=workers,
                check_hash=check_hash,
            )
        finally:
            os.close(fd)

    def derive_key(self, label: bytes) -> Secret:
        """Return 32 bytes for another use, bound to this sealing; the caller wipes.

        Args:
            label: says what for; ASCII, no NUL.
        """
        return derived_key(self._model_key.view, label, self.manifest.facts.seal_id)

    def verify_file(self, entry: FileEntry, on_bytes: Callable[[int], None]) -> None:
        """Read a whole file and release nothing.

        Raises:
            DamagedError, CipherdirError: as `open_file`.
        """
        for piece in self.stream_file(entry):
            on_bytes(len(piece))

    @property
    def is_on_disk(self) -> bool:
        """Whether its directory of objects was not removed."""
        if self._files is None:
            return False
        try:
            return os.fstat(self._files.objects).st_nlink > 0
        except OSError:  # removed by another machine, on a network filesystem
            return False

    def renew(self, other: Self) -> None:
        """Go on with the files of another directory that has the same sealing.

        By the same descriptors, since others may be reading.
        """
        for fd, new in zip(self.files, other.files, strict=True):
            os.dup2(new, fd, inheritable=False)

    def check_objects(self) -> None:
        """Check that every object is there, of its length, and fits its block list.

        Not its content, which is checked as it is read.

        Raises:
            DamagedError, CipherdirError: as `open_file`.
        """
        for entry in self.manifest.files:
            os.close(self._open_object(entry)[0])

    def hold_objects(self) -> None:
        """Check the objects, and keep them open: all files can be opened from now on.

        Unless they are so many that they would take a good part of the descriptors
        which this process may have: then they are only checked.

        Raises:
            DamagedError, CipherdirError: as `open_file`.
        """
        if len(self.manifest.files) > _held_max():
            self.check_objects()
            return
        for entry in self.manifest.files:
            if entry.object_id not in self._held:
                self._held[entry.object_id] = self._open_object(entry)[0]

    def close(self) -> None:
        """Wipe the key and close the descriptors; open files go on."""
        self._model_key.wipe()
        while self._held:
            os.close(self._held.popitem()[1])
        files, self._files = self._files, None
        if files is not None:
            files.close()

    def _chunks(self, entry: FileEntry, prefix: bytes) -> ChunkDecryptor:
        context = object_context(self.manifest.facts.seal_id, entry.object_id)
        return ChunkDecryptor(self._model_key.view, prefix, context)

    def _open_object(self, entry: FileEntry) -> tuple[int, bytes, BlockList]:
        held = self._held.get(entry.object_id)
        if held is not None:
            fd = os.dup(held)
            return self._check_object(entry, fd, os.fstat(fd).st_size)
        fd, size = beneath.open_regular(entry.object_id, self.files.objects, "object")
        return self._check_object(entry, fd, size)

    def _check_object(
        self, entry: FileEntry, fd: int, size: int
    ) -> tuple[int, bytes, BlockList]:
        """Return the object with its prefix and its list; closed if it is no good."""
        try:
            if size != message_size(entry.padded_size):
                raise DamagedError("an object has a wrong size")
            prefix = beneath.read_exactly(fd, PREFIX_SIZE, 0, "object")
            entries = beneath.read_exactly(
                self.files.blocks,
                block_list_size(entry.padded_size),
                self._list_offsets[entry.object_id],
                "file of block lists",
            )
            return fd, prefix, BlockList(prefix, entries, entry.block_list_hash)
        except BaseException:
            os.close(fd)
            raise


def _held_max() -> int:
    """Return how many objects one sealing may hold."""
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0] // _HELD_PART


def _list_offsets(manifest: Manifest) -> dict[str, int]:
    offsets = {}
    position = 0
    for entry in manifest.files:
        offsets[entry.object_id] = position
        position += block_list_size(entry.padded_size)
    return offsets
