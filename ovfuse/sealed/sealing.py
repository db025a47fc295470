"""An unlocked sealing: its manifest, and its files by manifest entry.

Used by the view, the loader, `verify` and `decrypt`. It may be used by many threads;
only its owner closes it.
"""

import os
from collections.abc import Callable, Iterator
from typing import Final

from ovfuse.errors import DamagedError
from ovfuse.sealed import beneath, layout
from ovfuse.sealed.blocks import BlockList
from ovfuse.sealed.manifest import FileEntry, Manifest
from ovfuse.sealed.offsets import PREFIX_SIZE, block_list_size, message_size
from ovfuse.sealed.primitives import ChunkDecryptor, derived_key, object_context
from ovfuse.sealed.reader import ObjectReader, ScratchPool
from ovfuse.sealed.stream import plaintext_pieces
from ovfuse.sealed.whole import read_whole
from ovfuse.secret import Secret

__all__ = ["Sealing"]


class Sealing:
    """An unlocked sealing: its manifest, and its files by manifest entry.

    Owns the model key and two descriptors, so that its files can be opened as
    long as they exist, wherever the directory is by then.

    Raises:
        DamagedError, CipherdirError: `blocks` or `objects` is not as it must be.
    """

    def __init__(
        self,
        manifest: Manifest,
        directory_fd: int,
        model_key: Secret,
        pool: ScratchPool,
    ) -> None:
        self.manifest: Final = manifest
        self._model_key = model_key
        self._pool = pool
        self._list_offsets = _list_offsets(manifest)
        self._blocks_fd, size = beneath.open_regular(
            layout.BLOCKS_NAME, directory_fd, "file of block lists"
        )
        try:
            if size != manifest.blocks_size:
                raise DamagedError("the file of block lists has a wrong size")
            self._objects_fd = beneath.open_directory(
                layout.OBJECTS_NAME, directory_fd, "directory objects"
            )
        except BaseException:
            os.close(self._blocks_fd)
            raise

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
        fd, prefix, blocks = self._open_object(entry)
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
        try:
            return os.fstat(self._objects_fd).st_nlink > 0
        except OSError:  # removed by another machine, on a network filesystem
            return False

    def check_objects(self) -> None:
        """Check that every object is there, of its length, and fits its block list.

        Not its content, which is checked as it is read.

        Raises:
            DamagedError, CipherdirError: as `open_file`.
        """
        for entry in self.manifest.files:
            os.close(self._open_object(entry)[0])

    def close(self) -> None:
        """Wipe the key and close the descriptors; open files go on."""
        self._model_key.wipe()
        for fd in (self._blocks_fd, self._objects_fd):
            if fd >= 0:
                os.close(fd)
        self._blocks_fd = self._objects_fd = -1

    def _chunks(self, entry: FileEntry, prefix: bytes) -> ChunkDecryptor:
        context = object_context(self.manifest.facts.seal_id, entry.object_id)
        return ChunkDecryptor(self._model_key.view, prefix, context)

    def _open_object(self, entry: FileEntry) -> tuple[int, bytes, BlockList]:
        fd, size = beneath.open_regular(entry.object_id, self._objects_fd, "object")
        try:
            if size != message_size(entry.padded_size):
                raise DamagedError("an object has a wrong size")
            prefix = beneath.read_exactly(fd, PREFIX_SIZE, 0, "object")
            entries = beneath.read_exactly(
                self._blocks_fd,
                block_list_size(entry.padded_size),
                self._list_offsets[entry.object_id],
                "file of block lists",
            )
            return fd, prefix, BlockList(prefix, entries, entry.block_list_hash)
        except BaseException:
            os.close(fd)
            raise


def _list_offsets(manifest: Manifest) -> dict[str, int]:
    offsets = {}
    position = 0
    for entry in manifest.files:
        offsets[entry.object_id] = position
        position += block_list_size(entry.padded_size)
    return offsets
