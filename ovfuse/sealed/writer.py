"""One file of a model directory into one object: read, hashed, encrypted, hashed.

Constant memory: one step of 1 MiB at a time, whatever the size.
"""

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from cryptography.cobblestone import Cobblestone256Encryptor

from ovfuse.sealed.blocks import BlockLister
from ovfuse.sealed.layout import KiB
from ovfuse.sealed.offsets import message_size

__all__ = ["ObjectWriter", "WrittenObject", "write_all"]

_STEP_SIZE: Final = KiB * KiB


@dataclass(frozen=True, slots=True, kw_only=True)
class WrittenObject:
    """What the manifest says about an object that was written.

    Attributes:
        plaintext_size: bytes read.
        plaintext_sha256: hex.
        block_list: the entries for the file `blocks`.
        block_list_hash: hex.
    """

    plaintext_size: int
    plaintext_sha256: str
    block_list: bytes
    block_list_hash: str


class ObjectWriter:
    """Encrypts files under one model key; the buffers serve one after another."""

    def __init__(self, model_key: memoryview) -> None:
        self._model_key = model_key
        self._plaintext = memoryview(bytearray(_STEP_SIZE))
        # Never smaller than what one step can become, with a chunk held back.
        self._ciphertext = memoryview(bytearray(message_size(2 * _STEP_SIZE)))

    def write(
        self,
        read_into: Callable[[memoryview], int],
        target_fd: int,
        context: bytes,
        on_bytes: Callable[[int], None],
    ) -> WrittenObject:
        """Encrypt a file to `target_fd`.

        Args:
            read_into: fills a buffer with the next plaintext; 0 means the end.
            target_fd: of the empty object.
            context: see `object_context`.
            on_bytes: told after each step how many bytes of plaintext it had.

        Raises:
            OSError: writing failed.
        """
        digest = hashlib.sha256()
        lister = BlockLister()
        total = 0
        encryptor = Cobblestone256Encryptor(self._model_key, context)
        while count := read_into(self._plaintext):
            step = self._plaintext[:count]
            digest.update(step)
            size = encryptor.update_into(step, self._ciphertext)
            _put(self._ciphertext[:size], target_fd, lister)
            total += count
            on_bytes(count)
        _put(memoryview(encryptor.finalize()), target_fd, lister)
        block_list, block_list_hash = lister.finish()
        return WrittenObject(
            plaintext_size=total,
            plaintext_sha256=digest.hexdigest(),
            block_list=block_list,
            block_list_hash=block_list_hash,
        )

    def wipe(self) -> None:
        """Overwrite the last plaintext."""
        self._plaintext[:] = bytes(len(self._plaintext))


def _put(data: memoryview, target_fd: int, lister: BlockLister) -> None:
    lister.update(data)
    write_all(target_fd, data)


def write_all(fd: int, data: bytes | memoryview) -> None:
    """Write all of `data`.

    Raises:
        OSError: writing failed.
    """
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(fd, rest) :]
