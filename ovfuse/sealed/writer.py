"""One file of a model directory into one object: read, hashed, encrypted, hashed.

Constant memory: one step of 1 MiB at a time, whatever the size.
"""

import hashlib
import itertools
import os
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

from cryptography.cobblestone import Cobblestone256Encryptor

from ovfuse.sealed.blocks import BlockLister
from ovfuse.sealed.disk import start_writeback
from ovfuse.sealed.layout import KiB
from ovfuse.sealed.offsets import message_size

__all__ = ["ObjectWriter", "WrittenObject", "write_all"]

_STEP_SIZE: Final = KiB * KiB
_WRITEBACK_SIZE: Final = 32 * _STEP_SIZE
"""So often the system is told to begin writing to the disk what it has."""


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
    """Encrypts files under one model key; the buffers serve one after another.

    SHA-256 takes as long as all else together, so a thread of its own computes it.
    """

    def __init__(self, model_key: memoryview) -> None:
        self._model_key = model_key
        # Two steps: one is hashed while the next is read.
        self._plaintext = memoryview(bytearray(2 * _STEP_SIZE))
        # Never smaller than what one step can become, with a chunk held back.
        self._ciphertext = memoryview(bytearray(message_size(2 * _STEP_SIZE)))
        self._hasher = ThreadPoolExecutor(1, thread_name_prefix="sha256")

    def write(
        self,
        read_into: Callable[[memoryview], int],
        target_fd: int,
        context: bytes,
        on_bytes: Callable[[int], None],
    ) -> WrittenObject:
        """Encrypt a file to `target_fd`.

        Args:
            read_into: fills a buffer; 0 means the end.
            target_fd: of the empty object.
            context: see `object_context`.
            on_bytes: told after each step how many bytes of plaintext it had.

        Raises:
            OSError: writing failed.
        """
        digest, lister, total = _Digest(self._hasher), BlockLister(), 0
        encryptor = Cobblestone256Encryptor(self._model_key, context)
        try:
            for step in self._steps(read_into):
                digest.update(step)
                size = encryptor.update_into(step, self._ciphertext)
                _put(self._ciphertext[:size], target_fd, lister)
                total += len(step)
                on_bytes(len(step))
                if total % _WRITEBACK_SIZE == 0:
                    start_writeback(target_fd)
        finally:
            plaintext_sha256 = digest.finish()
        _put(memoryview(encryptor.finalize()), target_fd, lister)
        block_list, list_hash = lister.finish()
        return WrittenObject(
            plaintext_size=total,
            plaintext_sha256=plaintext_sha256,
            block_list=block_list,
            block_list_hash=list_hash,
        )

    def _steps(self, read_into: Callable[[memoryview], int]) -> Iterator[memoryview]:
        """Read into each half in turn."""
        halves = self._plaintext[:_STEP_SIZE], self._plaintext[_STEP_SIZE:]
        for half in itertools.cycle(halves):
            count = read_into(half)
            if not count:
                return
            yield half[:count]

    def close(self) -> None:
        """Overwrite the last plaintext, end the thread."""
        self._hasher.shutdown()
        self._plaintext[:] = bytes(len(self._plaintext))


class _Digest:
    """SHA-256 of what passes by; a buffer is free again one update later."""

    def __init__(self, hasher: ThreadPoolExecutor) -> None:
        self._digest = hashlib.sha256()
        self._hasher = hasher
        self._last: Future[None] | None = None

    def update(self, data: memoryview) -> None:
        self._wait()
        if len(data) < _STEP_SIZE:  # not worth waking a thread
            self._digest.update(data)
        else:
            self._last = self._hasher.submit(self._digest.update, data)

    def finish(self) -> str:
        """Return the digest in hex."""
        self._wait()
        return self._digest.hexdigest()

    def _wait(self) -> None:
        last, self._last = self._last, None
        if last is not None:
            last.result()


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
