"""Whole objects from start to end: verification, and plaintext for `decrypt`.

Streams through the library's Cobblestone decryptor in steps of 16 blocks, each
checked against the block list before it is decrypted. Constant memory.
"""

import hashlib
from collections.abc import Iterator
from typing import Final

from cryptography.cobblestone import Cobblestone256Decryptor
from cryptography.exceptions import InvalidTag

from ovfuse.errors import DamagedError
from ovfuse.sealed.blocks import BlockList
from ovfuse.sealed.manifest import FileEntry
from ovfuse.sealed.offsets import (
    BLOCK_SIZE,
    ENCRYPTED_CHUNK_SIZE,
    block_count,
    block_offset,
    block_size,
)
from ovfuse.sealed.reader import read_fully

__all__ = ["plaintext_pieces"]

_BLOCKS_PER_STEP: Final = 16


def plaintext_pieces(  # noqa: PLR0913 - five facts of one object
    fd: int,
    entry: FileEntry,
    *,
    prefix: bytes,
    blocks: BlockList,
    model_key: memoryview,
    context: bytes,
) -> Iterator[memoryview]:
    """Yield the file's plaintext in pieces; each is valid until the next one.

    A piece is authenticated when it comes; that the file is whole, that its hash is
    the signed one and that its padding is zeros is known when the iterator ends.

    Raises:
        DamagedError: anything is not what was signed.
        CipherdirError: the object cannot be read.
    """
    digest = hashlib.sha256()
    remaining = entry.size
    decryptor = Cobblestone256Decryptor(model_key, context)
    for piece in _decrypted(decryptor, prefix, _checked_steps(fd, entry, blocks)):
        content, padding = piece[:remaining], piece[remaining:]
        if padding and padding.tobytes().strip(b"\0"):
            raise DamagedError("a file's padding is not zeros")
        digest.update(content)
        remaining -= len(content)
        yield content
    if digest.hexdigest() != entry.plaintext_sha256:
        raise DamagedError("a file is not what its publisher hashed")


def _decrypted(
    decryptor: Cobblestone256Decryptor, prefix: bytes, steps: Iterator[memoryview]
) -> Iterator[memoryview]:
    plaintext = memoryview(bytearray(BLOCK_SIZE * _BLOCKS_PER_STEP))
    try:
        decryptor.update_into(prefix, bytearray(ENCRYPTED_CHUNK_SIZE))
        for step in steps:
            yield plaintext[: decryptor.update_into(step, plaintext)]
        yield memoryview(decryptor.finalize())
    except InvalidTag:
        raise DamagedError("an object is corrupted or tampered with") from None
    finally:
        plaintext[:] = bytes(len(plaintext))


def _checked_steps(
    fd: int, entry: FileEntry, blocks: BlockList
) -> Iterator[memoryview]:
    padded_size = entry.padded_size
    buffer = memoryview(bytearray(BLOCK_SIZE * _BLOCKS_PER_STEP))
    count = block_count(padded_size)
    for first in range(0, count, _BLOCKS_PER_STEP):
        numbers = range(first, min(first + _BLOCKS_PER_STEP, count))
        size = sum(block_size(number, padded_size) for number in numbers)
        step = buffer[:size]
        read_fully(fd, step, block_offset(first))
        for index, number in enumerate(numbers):
            blocks.check(number, step[index * BLOCK_SIZE : (index + 1) * BLOCK_SIZE])
        yield step
