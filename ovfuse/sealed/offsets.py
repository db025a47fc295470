"""Sizes and offsets of Cobblestone-256 messages and of their blocks: no I/O.

Source of the formulas: C2SP chunked-encryption, and docs/format.md for blocks.
All sizes and offsets are bytes; numbers count from 0.
"""

from typing import Final

CHUNK_SIZE: Final = 16 * 1024
TAG_SIZE: Final = 16
ENCRYPTED_CHUNK_SIZE: Final = CHUNK_SIZE + TAG_SIZE
SALT_SIZE: Final = 24
COMMITMENT_SIZE: Final = 32
PREFIX_SIZE: Final = SALT_SIZE + COMMITMENT_SIZE

CHUNKS_PER_BLOCK: Final = 4
BLOCK_PLAINTEXT_SIZE: Final = CHUNKS_PER_BLOCK * CHUNK_SIZE
BLOCK_SIZE: Final = CHUNKS_PER_BLOCK * ENCRYPTED_CHUNK_SIZE
HASH_SIZE: Final = 32


def chunk_count(plaintext_size: int) -> int:
    """Return the number of chunks; the final one is always shorter than full."""
    return plaintext_size // CHUNK_SIZE + 1


def message_size(plaintext_size: int) -> int:
    """Return the size of the whole message."""
    return PREFIX_SIZE + plaintext_size + TAG_SIZE * chunk_count(plaintext_size)


def block_count(plaintext_size: int) -> int:
    """Return the number of blocks, which is the number of entries in the list."""
    return -(-chunk_count(plaintext_size) // CHUNKS_PER_BLOCK)


def block_list_size(plaintext_size: int) -> int:
    """Return the size of the block list."""
    return HASH_SIZE * block_count(plaintext_size)


def block_offset(block_number: int) -> int:
    """Return where a block begins in the message."""
    return PREFIX_SIZE + BLOCK_SIZE * block_number


def block_size(block_number: int, plaintext_size: int) -> int:
    """Return the size of a block; only the last may be short.

    Raises:
        ValueError: the message has no such block.
    """
    if not 0 <= block_number < block_count(plaintext_size):
        raise ValueError("no such block")
    remaining = message_size(plaintext_size) - block_offset(block_number)
    return min(BLOCK_SIZE, remaining)
