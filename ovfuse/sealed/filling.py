"""Messages decrypted from start to end, straight into memory that the caller has.

Used for whole files: of sealed models by the loader, and for what a device keeps for
itself. One call of the streaming decryptor does a whole step, where single chunks would
cost the interpreter's attention once each.
"""

from typing import Final

from cryptography.cobblestone import Cobblestone256Decryptor
from cryptography.exceptions import InvalidTag

from ovfuse.errors import DamagedError
from ovfuse.memory import wipe
from ovfuse.sealed.offsets import CHUNK_SIZE, CHUNKS_PER_BLOCK, ENCRYPTED_CHUNK_SIZE

__all__ = ["CHUNKS_PER_STEP", "STEP_SIZE", "Filling"]

CHUNKS_PER_STEP: Final = 32 * CHUNKS_PER_BLOCK
STEP_SIZE: Final = CHUNKS_PER_STEP * CHUNK_SIZE


class Filling:
    """Fills a buffer with the plaintext of one message, whose steps come in order.

    Args:
        key: 32 bytes, to which the message commits.
        context: of the message.
        prefix: its first 56 bytes.
        target: what to fill; after an error it is not to be used, see `wipe`. It may
            be smaller than the plaintext, of which the rest must be zeros.

    Raises:
        DamagedError: the message commits to another key.
    """

    def __init__(
        self, key: memoryview, context: bytes, prefix: bytes, target: memoryview
    ) -> None:
        self._decryptor = Cobblestone256Decryptor(key, context)
        self._target = target
        self._rest = target
        try:
            self._decryptor.update_into(prefix, bytearray())
        except InvalidTag:
            raise _damaged() from None

    def update(self, ciphertext: memoryview) -> None:
        """Decrypt the next step: full chunks, the final one behind them or not.

        Raises:
            DamagedError: a tag does not verify, or padding is not zeros.
        """
        try:
            # Each full chunk comes out at once, to the byte; the final one never is
            # full, and comes with `finalize`.
            size = len(ciphertext) // ENCRYPTED_CHUNK_SIZE * CHUNK_SIZE
            if size <= len(self._rest):
                self._decryptor.update_into(ciphertext, self._take(size))
            else:
                self._release(self._decryptor.update(ciphertext))
        except InvalidTag:
            raise _damaged() from None

    def finish(self) -> None:
        """Decrypt the final chunk.

        Raises:
            DamagedError: see `update`; or the message goes on, or is too short.
        """
        try:
            self._release(self._decryptor.finalize())
        except InvalidTag:
            raise _damaged() from None
        if self._rest:
            raise _damaged()

    def wipe(self) -> None:
        """Overwrite with zeros what was written, verified or not.

        No more: where there is no memory, a write would end the process.
        """
        wipe(self._target[: len(self._target) - len(self._rest)])

    def _take(self, size: int) -> memoryview:
        """Return the next part of the buffer, which counts as written from now on."""
        part, self._rest = self._rest[:size], self._rest[size:]
        return part

    def _release(self, plaintext: bytes) -> None:
        """Copy what belongs into the buffer; all behind it is padding."""
        size = min(len(plaintext), len(self._rest))
        part = self._take(size)
        if plaintext.count(0, size) != len(plaintext) - size:
            raise DamagedError("a file's padding is not zeros")
        part[:] = memoryview(plaintext)[:size]


def _damaged() -> DamagedError:
    return DamagedError("a chunk is corrupted or tampered with")
