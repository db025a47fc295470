"""What the kernel is told about memory that plaintext will be in.

No core dump, no swap, huge pages, populated ahead: each as far as it is allowed. Only
the pages of the one range are touched; what the app does with the rest of its memory is
its own matter. And buffers that are given back whole.
"""

import ctypes
import errno
import functools
import logging
import mmap
import os
from typing import Final

from ovfuse.secret import may_swap

__all__ = ["allocate", "keep_present", "populate", "protect", "wipe"]

_log = logging.getLogger(__name__)

_MADV_HUGEPAGE: Final = 14
_MADV_DONTDUMP: Final = 16
_MADV_POPULATE_WRITE: Final = 23
_MLOCK_ONFAULT: Final = 1

_ZEROS: Final = bytes(1024 * 1024)

_libc = ctypes.CDLL(None, use_errno=True)


def allocate(size: int) -> memoryview:
    """Return so many bytes of zeros that the kernel has back as soon as they are free.

    What threads get of malloc(3) and free stays with the process, in the arena of each.

    Raises:
        MemoryError: there is not so much.
    """
    try:
        return memoryview(mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE))
    except OSError as error:
        raise MemoryError(os.strerror(error.errno or errno.ENOMEM)) from None


def keep_present(buffer: memoryview) -> None:
    """Make the pages of a buffer of zeros now, and keep them out of swap if allowed."""
    wipe(buffer)
    _libc.mlock(*_pages(_address_of(buffer), len(buffer)))


def protect(address: int, size: int) -> None:
    """Mark and lock the pages around `size` bytes at `address`; best effort.

    Nothing is populated by it: pages are locked as they are written (MLOCK_ONFAULT).
    One warning for the process if they cannot be locked and the system has swap.
    """
    if size == 0:
        return
    pages, length = _pages(address, size)
    _libc.madvise(pages, length, _MADV_DONTDUMP)
    _libc.madvise(pages, length, _MADV_HUGEPAGE)
    if _libc.mlock2(pages, length, _MLOCK_ONFAULT) != 0:
        _warn_of_swap()


def populate(buffer: memoryview) -> None:
    """Have the kernel make the pages of a buffer now (Linux 5.14, else nothing).

    The GIL is free meanwhile, so that it can be done beside other work; a first write
    of each page would stop whoever writes. In a file, that write would end the process
    where there is no memory.

    Raises:
        MemoryError: there is not so much.
    """
    if not buffer:
        return
    pages = _pages(_address_of(buffer), len(buffer))
    if _libc.madvise(*pages, _MADV_POPULATE_WRITE) != 0:
        error = ctypes.get_errno()
        if error != errno.EINVAL:
            raise MemoryError(os.strerror(error))


def wipe(buffer: memoryview) -> None:
    """Overwrite a buffer of bytes with zeros, of whatever size."""
    for start in range(0, len(buffer), len(_ZEROS)):
        piece = buffer[start : start + len(_ZEROS)]
        piece[:] = _ZEROS[: len(piece)]


def _address_of(buffer: memoryview) -> int:
    return ctypes.addressof(ctypes.c_char.from_buffer(buffer))


def _pages(address: int, size: int) -> tuple[ctypes.c_void_p, ctypes.c_size_t]:
    start = address & -mmap.PAGESIZE
    return ctypes.c_void_p(start), ctypes.c_size_t(address + size - start)


@functools.cache
def _warn_of_swap() -> None:
    if may_swap():
        _log.warning("plaintext in memory is not locked and may reach swap")
