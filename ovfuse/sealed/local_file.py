"""Files that one device keeps for itself: a clear header, and content bound to it.

Used by the loader for compiled blobs; no part of the format of sealed models. A file is
a u32 big-endian length, a header, and a Cobblestone-256 message whose context is a
label, NUL and the SHA-256 of the header: the way in which an envelope's payload binds
its clear facts. It is replaced whole or not at all.
"""

import contextlib
import fcntl
import hashlib
import os
import stat
from collections.abc import Callable, Iterator
from typing import Final, Self

from cryptography.cobblestone import Cobblestone256Encryptor

from ovfuse.errors import BusyError, DamagedError
from ovfuse.memory import populate
from ovfuse.sealed import beneath
from ovfuse.sealed.filling import CHUNKS_PER_STEP, STEP_SIZE, Filling
from ovfuse.sealed.layout import KiB
from ovfuse.sealed.offsets import (
    CHUNK_SIZE,
    ENCRYPTED_CHUNK_SIZE,
    PREFIX_SIZE,
    TAG_SIZE,
    message_size,
)
from ovfuse.sealed.parallel import run_in_order, usable_cpus
from ovfuse.sealed.primitives import opens
from ovfuse.sealed.reader import read_fully
from ovfuse.sealed.writer import write_all
from ovfuse.secret import Secret

__all__ = ["LocalFile", "write_local_file"]

_LENGTH_SIZE: Final = 4
_HEADER_MAX_SIZE: Final = 16 * KiB
_CIPHERTEXT_SIZE: Final = CHUNKS_PER_STEP * ENCRYPTED_CHUNK_SIZE
_WRITING: Final = (
    os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
)
_WHAT: Final = "file"


class LocalFile:
    """A file that was found; nothing of it is believed yet. A context manager.

    Args:
        directory_fd: of its directory.
        name: of the file.

    Raises:
        DamagedError: missing, or not such a file.
        CipherdirError: it cannot be read.
    """

    def __init__(self, directory_fd: int, name: str) -> None:
        self._fd, size = beneath.open_regular(name, directory_fd, _WHAT)
        try:
            length = int.from_bytes(self._read(_LENGTH_SIZE, 0), "big")
            if length > _HEADER_MAX_SIZE:
                raise DamagedError("the file has a header that is too long")
            self.header: Final = self._read(length, _LENGTH_SIZE)
            self._start = _LENGTH_SIZE + length
            self.size: Final = _plaintext_size(size - self._start)
        except BaseException:
            os.close(self._fd)
            raise

    def read_into(
        self, allocate: Callable[[int], memoryview], key: Secret, label: bytes
    ) -> None:
        """Decrypt the whole content.

        Args:
            allocate: gives the memory for so many bytes; only asked if the file
                commits to the key. After an error the memory holds nothing of it.
            key: 32 bytes.
            label: of the use; ASCII, without NUL.

        Raises:
            DamagedError: made under another key or header, or not whole.
            CipherdirError: it cannot be read.
            MemoryError: there is none behind what was allocated.
        """
        prefix = self._read(PREFIX_SIZE, self._start)
        context = _context(label, self.header)
        if not opens(key.view, prefix, context):
            raise DamagedError("the file is encrypted under another key")
        target = allocate(self.size)
        filling = Filling(key.view, context, prefix, target)
        first = self._start + PREFIX_SIZE
        try:
            run_in_order(
                self.size // STEP_SIZE + 1,
                lambda: _StepReader(self._fd, first, target),
                filling.update,
                usable_cpus(),
            )
            filling.finish()
        except BaseException:
            filling.wipe()
            raise

    def close(self) -> None:
        """Close it."""
        os.close(self._fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _read(self, size: int, offset: int) -> bytes:
        return beneath.read_exactly(self._fd, size, offset, _WHAT)


class _StepReader:
    """Reads steps into one thread's private memory, which is valid until the next."""

    def __init__(self, fd: int, first: int, target: memoryview) -> None:
        self._fd = fd
        self._first = first
        self._target = target
        self._ciphertext = memoryview(bytearray(_CIPHERTEXT_SIZE))

    def __call__(self, number: int) -> memoryview:
        """Return one step: full chunks, or what is left with the final."""
        target = self._target[number * STEP_SIZE : (number + 1) * STEP_SIZE]
        is_last = len(target) < STEP_SIZE
        count = len(target) // CHUNK_SIZE + is_last
        step = self._ciphertext[: len(target) + count * TAG_SIZE]
        read_fully(self._fd, step, self._first + number * _CIPHERTEXT_SIZE)
        populate(target)
        return step


def write_local_file(  # noqa: PLR0913 - four facts of the file, its place and content
    directory_fd: int,
    name: str,
    *,
    header: bytes,
    key: Secret,
    label: bytes,
    plaintext: memoryview,
) -> None:
    """Write a file that takes the place of an older one when it is whole and synced.

    Args:
        directory_fd: of its directory.
        name: of the file; it becomes its owner's alone, whatever the umask.
        header: stays in clear.
        key: 32 bytes.
        label: see `LocalFile.read_into`.
        plaintext: the content, of any size.

    Raises:
        BusyError: another process is writing it.
        OSError: the operating system refuses; the older one is still there.
    """
    with _replacing(directory_fd, name) as fd:
        write_all(fd, len(header).to_bytes(_LENGTH_SIZE, "big") + header)
        encryptor = Cobblestone256Encryptor(key.view, _context(label, header))
        # Never smaller than what one step can become, with a chunk held back.
        ciphertext = memoryview(bytearray(message_size(2 * STEP_SIZE)))
        for start in range(0, len(plaintext), STEP_SIZE):
            step = plaintext[start : start + STEP_SIZE]
            write_all(fd, ciphertext[: encryptor.update_into(step, ciphertext)])
        write_all(fd, encryptor.finalize())


@contextlib.contextmanager
def _replacing(directory_fd: int, name: str) -> Iterator[int]:
    """Give an empty file under another name, and rename it when it is written.

    That name is always the same, so that what a killed process left is used again.
    """
    new = f"{name}.new"
    fd = os.open(new, _WRITING, 0o600, dir_fd=directory_fd)
    try:
        _take(fd, new, directory_fd)
        try:
            yield fd
            os.fsync(fd)
            os.rename(new, name, src_dir_fd=directory_fd, dst_dir_fd=directory_fd)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(new, dir_fd=directory_fd)
            raise
    finally:
        os.close(fd)
    os.fsync(directory_fd)


def _take(fd: int, name: str, directory_fd: int) -> None:
    """Become the only one who writes to the file, and empty it."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise BusyError("another process is writing the file") from None
    opened = os.fstat(fd)
    try:
        there = os.stat(name, dir_fd=directory_fd, follow_symlinks=False)
    except FileNotFoundError:  # whoever had the lock has just renamed it
        raise BusyError("another process has just written the file") from None
    if not stat.S_ISREG(opened.st_mode) or not os.path.samestat(opened, there):
        raise BusyError("another process is writing the file")
    os.ftruncate(fd, 0)
    os.fchmod(fd, 0o600)


def _context(label: bytes, header: bytes) -> bytes:
    return label + b"\0" + hashlib.sha256(header).digest()


def _plaintext_size(size: int) -> int:
    """Return the size of what a message of `size` bytes holds."""
    full, rest = divmod(size - PREFIX_SIZE, ENCRYPTED_CHUNK_SIZE)
    if size < PREFIX_SIZE or rest < TAG_SIZE:  # the final chunk is never a full one
        raise DamagedError("the file is truncated")
    return full * CHUNK_SIZE + rest - TAG_SIZE
