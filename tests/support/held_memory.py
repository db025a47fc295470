"""What is in the memory of other processes and in the page cache; needs root."""

import ctypes
import mmap
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from ovfuse.keys.identities import find_identities
from ovfuse.sealed.opening import SealedModel
from ovfuse.sealed.reader import ScratchPool
from tests.support.mounting import Home

__all__ = ["cached_pages", "holds", "model_key_of"]

_PIECE = 16 << 20
_libc = ctypes.CDLL(None, use_errno=True)
_libc.mincore.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p]


def model_key_of(home: Home, cipherdir: Path) -> bytes:
    """Return the key of the current sealing."""
    identities = find_identities([home.identity]).identities
    with SealedModel.open(cipherdir) as model, model.current() as locked:
        sealing = locked.unlock(identities, ScratchPool())
    try:
        return bytes(sealing.model_key.view)
    finally:
        sealing.close()


def holds(pid: int, wanted: bytes) -> bool:
    """Tell whether these bytes are in any memory of a process that can be read."""
    return any(wanted in piece for piece in _pieces(pid, len(wanted) - 1))


def cached_pages(fd: int, size: int) -> int:
    """Return how many pages of an open file the kernel has in its cache."""
    with mmap.mmap(fd, size, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_WRITE) as m:
        pages = -(-size // mmap.PAGESIZE)
        found = ctypes.create_string_buffer(pages)
        start = ctypes.c_char.from_buffer(m)
        done = _libc.mincore(ctypes.addressof(start), size, ctypes.addressof(found))
        del start
    if done != 0:
        raise OSError(ctypes.get_errno(), "mincore")
    return sum(byte & 1 for byte in found.raw)


def _pieces(pid: int, overlap: int) -> Iterator[bytes]:
    memory = os.open(f"/proc/{pid}/mem", os.O_RDONLY)
    try:
        for start, end in _readable(pid):
            tail = b""
            for offset in range(start, end, _PIECE):
                with suppress(OSError):  # such as [vvar], and what went meanwhile
                    data = os.pread(memory, min(_PIECE, end - offset), offset)
                    yield tail + data
                    tail = data[-overlap:]
    finally:
        os.close(memory)


def _readable(pid: int) -> Iterator[tuple[int, int]]:
    for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
        span, rights, *_ = line.split()
        start, end = (int(part, 16) for part in span.split("-"))
        if rights.startswith("r"):
            yield start, end
