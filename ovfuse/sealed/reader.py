"""Random access to one object: authenticate, then release.

Used by the view for every read of a served file. Reads are positional and may come
from many threads at once; each borrows a scratch buffer, so that nothing of
the size of a block is allocated per call.
"""

import os
from collections import deque
from typing import Final

from ovfuse.errors import CipherdirError, DamagedError
from ovfuse.memory import allocate
from ovfuse.sealed.blocks import BlockList
from ovfuse.sealed.offsets import (
    BLOCK_PLAINTEXT_SIZE,
    BLOCK_SIZE,
    CHUNK_SIZE,
    CHUNKS_PER_BLOCK,
    ENCRYPTED_CHUNK_SIZE,
    TAG_SIZE,
    block_offset,
    block_size,
)
from ovfuse.sealed.primitives import ChunkDecryptor

__all__ = ["ObjectReader", "ScratchPool"]

_SPARE_SCRATCHES: Final = 4
"""As many as read at once, but for moments: what those had is given back."""
_BLOCKS_PER_STEP: Final = 17
"""The largest read of FUSE is 1 MiB, which may begin inside of a block."""


class _Scratch:
    """Private memory for one read: nobody else can write it meanwhile."""

    __slots__ = ("blocks", "chunk")

    def __init__(self) -> None:
        self.blocks = allocate(_BLOCKS_PER_STEP * BLOCK_SIZE)
        self.chunk = allocate(CHUNK_SIZE)


class ScratchPool:
    """Spare scratch buffers, shared by all readers of a view."""

    def __init__(self) -> None:
        self._spare: deque[_Scratch] = deque(maxlen=_SPARE_SCRATCHES)

    def borrow(self) -> _Scratch:
        """Return a buffer for the caller alone."""
        try:
            return self._spare.pop()
        except IndexError:
            return _Scratch()

    def wipe(self) -> None:
        """Overwrite what the spare buffers still hold of plaintext."""
        for scratch in tuple(self._spare):
            scratch.chunk[:] = bytes(CHUNK_SIZE)

    def give_back(self, scratch: _Scratch) -> None:
        """Keep the buffer for the next borrower."""
        self._spare.append(scratch)


class ObjectReader:
    """Plaintext of one file by offset.

    Args:
        fd: of the object, whose size was checked; the reader closes it.
        plaintext_size: in bytes, what readers see.
        padded_size: in bytes, what is encrypted.
        blocks: the checked block list.
        chunks: the decryptor of the object's message.
        pool: where scratch buffers come from.
    """

    def __init__(  # noqa: PLR0913 - six facts of one object
        self,
        fd: int,
        *,
        plaintext_size: int,
        padded_size: int,
        blocks: BlockList,
        chunks: ChunkDecryptor,
        pool: ScratchPool,
    ) -> None:
        self.plaintext_size: Final = plaintext_size
        self._padded_size: Final = padded_size
        self._fd = fd
        self._blocks = blocks
        self._chunks = chunks
        self._pool = pool

    @property
    def fd(self) -> int:
        """The object's descriptor."""
        return self._fd

    def read_into(self, offset: int, buffer: memoryview) -> int:
        """Fill `buffer` (bytes, writable) from `offset`; return how many came.

        Fewer than asked for come only at the end of the file. After an error the
        buffer holds zeros.

        Raises:
            DamagedError: a block is not the one that was signed.
            CipherdirError: the object cannot be read.
            ValueError: the offset is negative.
        """
        if offset < 0:
            raise ValueError("negative offset")
        size = min(len(buffer), self.plaintext_size - offset)
        if size <= 0:
            return 0
        scratch = self._pool.borrow()
        try:
            done = 0
            while done < size:
                done += self._read_blocks(offset + done, buffer[done:size], scratch)
        except BaseException:
            buffer[:size] = bytes(size)
            raise
        finally:
            self._pool.give_back(scratch)
        return size

    def close(self) -> None:
        """Close the object; a second call does nothing."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def _read_blocks(self, offset: int, target: memoryview, scratch: _Scratch) -> int:
        """Release what some blocks have of `target`; return the number of bytes."""
        first, start = divmod(offset, BLOCK_PLAINTEXT_SIZE)
        end = min(start + len(target), _BLOCKS_PER_STEP * BLOCK_PLAINTEXT_SIZE)
        last = first + (end - 1) // BLOCK_PLAINTEXT_SIZE
        size = (last - first) * BLOCK_SIZE + block_size(last, self._padded_size)
        blocks = scratch.blocks[:size]
        read_fully(self._fd, blocks, block_offset(first))
        for number in range(first, last + 1):
            place = (number - first) * BLOCK_SIZE
            self._blocks.check(number, blocks[place : place + BLOCK_SIZE])
        self._decrypt(first, blocks, start, target[: end - start], scratch)
        return end - start

    def _decrypt(
        self,
        first: int,
        blocks: memoryview,
        start: int,
        target: memoryview,
        scratch: _Scratch,
    ) -> None:
        """Fill `target` with the plaintext of blocks that were checked."""
        while target:
            index, skip = divmod(start, CHUNK_SIZE)
            whole = len(target) // CHUNK_SIZE if skip == 0 else 0
            place = index * ENCRYPTED_CHUNK_SIZE
            ciphertext = blocks[place : place + (whole or 1) * ENCRYPTED_CHUNK_SIZE]
            number = first * CHUNKS_PER_BLOCK + index
            if whole:
                count = whole * CHUNK_SIZE
                self._chunks.decrypt_into(number, ciphertext, target[:count])
            else:
                plaintext = scratch.chunk[: len(ciphertext) - TAG_SIZE]
                self._chunks.decrypt_into(number, ciphertext, plaintext)
                count = min(len(plaintext) - skip, len(target))
                target[:count] = plaintext[skip : skip + count]
            target = target[count:]
            start += count


def read_fully(fd: int, target: memoryview, offset: int) -> None:
    """Fill `target` from an object.

    Raises:
        DamagedError: the object was truncated since it was opened.
        CipherdirError: it cannot be read.
    """
    while target:
        try:
            count = os.preadv(fd, [target], offset)
        except OSError as error:
            raise CipherdirError(
                f"an object cannot be read: {error.strerror}"
            ) from None
        if count == 0:
            raise DamagedError("an object is truncated")
        target = target[count:]
        offset += count
