"""A whole file into memory that the caller has, by several threads at once.

Used by the loader. Steps of 32 blocks are read into private memory and checked against
the block list beside each other, then decrypted in order, straight into the caller's
memory. The signature covers all of it through the block list; padding is checked as
well, and SHA-256 where the caller wants it.
"""

import hashlib
from typing import Final

from ovfuse.errors import DamagedError
from ovfuse.memory import allocate, populate
from ovfuse.sealed.blocks import BlockList
from ovfuse.sealed.filling import CHUNKS_PER_STEP, STEP_SIZE, Filling
from ovfuse.sealed.manifest import FileEntry
from ovfuse.sealed.offsets import (
    BLOCK_SIZE,
    CHUNKS_PER_BLOCK,
    block_count,
    block_offset,
    block_size,
)
from ovfuse.sealed.parallel import run_in_order
from ovfuse.sealed.reader import read_fully

__all__ = ["read_whole"]

_BLOCKS_PER_STEP: Final = CHUNKS_PER_STEP // CHUNKS_PER_BLOCK


def read_whole(  # noqa: PLR0913 - nine facts of one read
    fd: int,
    entry: FileEntry,
    *,
    prefix: bytes,
    blocks: BlockList,
    model_key: memoryview,
    context: bytes,
    target: memoryview,
    workers: int,
    check_hash: bool,
) -> None:
    """Fill `target`, of exactly the file's size in bytes, with its plaintext.

    After an error nothing of it is left in `target`. `check_hash` compares the SHA-256
    as well; it cannot be computed on more than one thread, which takes longer than all
    the rest.

    Raises:
        DamagedError: anything is not what was signed.
        CipherdirError: the object cannot be read.
        MemoryError: there is none behind `target`.
    """
    if len(target) != entry.size:
        raise ValueError("the buffer has another size than the file")
    filling = Filling(model_key, context, prefix, target)

    def make_reader() -> _StepReader:
        return _StepReader(fd, entry.padded_size, blocks, target)

    count = -(-block_count(entry.padded_size) // _BLOCKS_PER_STEP)
    try:
        run_in_order(count, make_reader, filling.update, workers)
        filling.finish()
        if check_hash and hashlib.sha256(target).hexdigest() != entry.plaintext_sha256:
            raise DamagedError("a file is not what its publisher hashed")
    except BaseException:
        filling.wipe()
        raise


class _StepReader:
    """Reads steps into one thread's private memory, which is valid until the next."""

    def __init__(
        self,
        fd: int,
        padded_size: int,
        blocks: BlockList,
        target: memoryview,
    ) -> None:
        self._fd = fd
        self._padded_size = padded_size
        self._blocks = blocks
        self._target = target
        self._ciphertext = allocate(BLOCK_SIZE * _BLOCKS_PER_STEP)

    def __call__(self, number: int) -> memoryview:
        """Return the ciphertext of one step, checked; make its memory ready."""
        first = number * _BLOCKS_PER_STEP
        last = min(first + _BLOCKS_PER_STEP, block_count(self._padded_size)) - 1
        size = (last - first) * BLOCK_SIZE + block_size(last, self._padded_size)
        step = self._ciphertext[:size]
        read_fully(self._fd, step, block_offset(first))
        for block_number in range(first, last + 1):
            start = (block_number - first) * BLOCK_SIZE
            block = step[start : start + BLOCK_SIZE]
            self._blocks.check(block_number, block)
        populate(self._target[number * STEP_SIZE : (number + 1) * STEP_SIZE])
        return step
