"""Block lists: made while an object is written, checked while it is read.

BLAKE3 is used here only. What the hashes are for: docs/format.md, Block lists.
"""

from typing import Final

from blake3 import blake3

from ovfuse.errors import DamagedError
from ovfuse.sealed.offsets import BLOCK_SIZE, HASH_SIZE, PREFIX_SIZE

__all__ = ["BlockList", "BlockLister"]


class BlockList:
    """The checked list of one object, kept in memory while the object is open.

    Args:
        prefix: the object's first 56 bytes, as read.
        entries: the list, as read.
        expected: the block-list hash in the signed manifest, hex.

    Raises:
        DamagedError: prefix and entries are not what was signed.
    """

    __slots__ = ("_entries",)

    def __init__(self, prefix: bytes, entries: bytes, expected: str) -> None:
        if blake3(prefix).update(entries).hexdigest() != expected:
            raise DamagedError("a block list is corrupted or tampered with")
        self._entries: Final = entries

    def check(self, block_number: int, block: memoryview) -> None:
        """Check one block.

        Raises:
            DamagedError: the block is not the one that was signed.
        """
        start = HASH_SIZE * block_number
        if blake3(block).digest() != self._entries[start : start + HASH_SIZE]:
            raise DamagedError("a block is corrupted or tampered with")


class BlockLister:
    """Makes a list from a message that passes by in pieces of any size."""

    def __init__(self) -> None:
        self._prefix = bytearray()
        self._entries = bytearray()
        self._block = blake3()
        self._block_filled = 0

    def update(self, data: memoryview) -> None:
        """Take the next bytes of the message."""
        missing = PREFIX_SIZE - len(self._prefix)
        self._prefix += data[:missing]
        data = data[missing:]
        while data:
            piece = data[: BLOCK_SIZE - self._block_filled]
            self._block.update(piece)
            self._block_filled += len(piece)
            data = data[len(piece) :]
            if self._block_filled == BLOCK_SIZE:
                self._finish_block()

    def finish(self) -> tuple[bytes, str]:
        """Return the entries, and the block-list hash in hex."""
        if self._block_filled:
            self._finish_block()
        entries = bytes(self._entries)
        return entries, blake3(bytes(self._prefix)).update(entries).hexdigest()

    def _finish_block(self) -> None:
        self._entries += self._block.digest()
        self._block.reset()
        self._block_filled = 0
