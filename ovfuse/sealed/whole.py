"""A whole file into memory that the caller has, by several threads at once.

Used by the loader. Each step reads 16 blocks into private memory, checks them against
the block list and decrypts straight into the caller's: random access, as the mount's,
to every block. The signature covers all of it through the block list; padding is
checked as well, and SHA-256 where the caller wants it.
"""

import hashlib
from typing import Final

from ovfuse.errors import DamagedError
from ovfuse.sealed.blocks import BlockList
from ovfuse.sealed.manifest import FileEntry
from ovfuse.sealed.offsets import (
    BLOCK_PLAINTEXT_SIZE,
    BLOCK_SIZE,
    CHUNK_SIZE,
    CHUNKS_PER_BLOCK,
    ENCRYPTED_CHUNK_SIZE,
    TAG_SIZE,
    block_count,
    block_offset,
    block_size,
)
from ovfuse.sealed.parallel import run_steps
from ovfuse.sealed.primitives import ChunkDecryptor
from ovfuse.sealed.reader import read_fully

__all__ = ["read_whole", "wipe"]

_BLOCKS_PER_STEP: Final = 16
_STEP_SIZE: Final = _BLOCKS_PER_STEP * BLOCK_PLAINTEXT_SIZE
_ZEROS: Final = bytes(_STEP_SIZE)


def read_whole(  # noqa: PLR0913 - seven facts of one read
    fd: int,
    entry: FileEntry,
    *,
    blocks: BlockList,
    chunks: ChunkDecryptor,
    target: memoryview,
    workers: int,
    check_hash: bool,
) -> None:
    """Fill `target`, of exactly the file's size in bytes, with its plaintext.

    After an error `target` is not to be used; the caller wipes it. `check_hash`
    compares the SHA-256 as well; it cannot be computed on more than one thread, which
    takes longer than all the rest.

    Raises:
        DamagedError: anything is not what was signed.
        CipherdirError: the object cannot be read.
    """
    whole = _Whole(fd, entry, blocks, chunks, target)

    run_steps(whole.step_count, lambda: _Worker(whole), workers)
    if check_hash and hashlib.sha256(target).hexdigest() != entry.plaintext_sha256:
        raise DamagedError("a file is not what its publisher hashed")


def wipe(target: memoryview) -> None:
    """Overwrite a buffer of bytes with zeros, of whatever size."""
    for start in range(0, len(target), _STEP_SIZE):
        piece = target[start : start + _STEP_SIZE]
        piece[:] = _ZEROS[: len(piece)]


class _Whole:
    """What the workers share of one file."""

    def __init__(
        self,
        fd: int,
        entry: FileEntry,
        blocks: BlockList,
        chunks: ChunkDecryptor,
        target: memoryview,
    ) -> None:
        if len(target) != entry.size:
            raise ValueError("the buffer has another size than the file")
        self.fd = fd
        self.padded_size: Final = entry.padded_size
        self.blocks = blocks
        self.chunks = chunks
        self.target = target
        self.block_count: Final = block_count(entry.padded_size)
        self.step_count: Final = -(-self.block_count // _BLOCKS_PER_STEP)


class _Worker:
    """One thread's private memory, and the steps that it does."""

    def __init__(self, whole: _Whole) -> None:
        self._whole = whole
        self._ciphertext = memoryview(bytearray(BLOCK_SIZE * _BLOCKS_PER_STEP))
        self._chunk = memoryview(bytearray(CHUNK_SIZE))

    def __call__(self, number: int) -> None:
        """Read, check and decrypt the blocks of one step."""
        whole = self._whole
        first = number * _BLOCKS_PER_STEP
        last = min(first + _BLOCKS_PER_STEP, whole.block_count) - 1
        size = (last - first) * BLOCK_SIZE + block_size(last, whole.padded_size)
        step = self._ciphertext[:size]
        read_fully(whole.fd, step, block_offset(first))
        for block_number in range(first, last + 1):
            start = (block_number - first) * BLOCK_SIZE
            block = step[start : start + BLOCK_SIZE]
            whole.blocks.check(block_number, block)
            self._decrypt(block_number * CHUNKS_PER_BLOCK, block)

    def _decrypt(self, chunk_number: int, block: memoryview) -> None:
        whole = self._whole
        for start in range(0, len(block), ENCRYPTED_CHUNK_SIZE):
            ciphertext = block[start : start + ENCRYPTED_CHUNK_SIZE]
            size = len(ciphertext) - TAG_SIZE
            offset = chunk_number * CHUNK_SIZE
            target = whole.target[offset : offset + size]
            if len(target) == size:
                whole.chunks.decrypt_into(chunk_number, ciphertext, target)
            else:
                plaintext = self._chunk[:size]
                whole.chunks.decrypt_into(chunk_number, ciphertext, plaintext)
                if any(plaintext[len(target) :]):
                    raise DamagedError("a file's padding is not zeros")
                target[:] = plaintext[: len(target)]
                wipe(plaintext)
            chunk_number += 1
