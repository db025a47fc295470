"""What the kernel is told about memory that plaintext will be in.

No core dump, no swap, huge pages: each as far as it is allowed. Only the pages of the
one range are touched; what the app does with the rest of its memory is its own matter.
"""

import ctypes
import functools
import logging
import mmap
from typing import Final

from ovfuse.secret import may_swap

__all__ = ["protect"]

_log = logging.getLogger(__name__)

_MADV_HUGEPAGE: Final = 14
_MADV_DONTDUMP: Final = 16
_MLOCK_ONFAULT: Final = 1

_libc = ctypes.CDLL(None, use_errno=True)


def protect(address: int, size: int) -> None:
    """Mark and lock the pages around `size` bytes at `address`; best effort.

    Nothing is populated by it: pages are locked as they are written (MLOCK_ONFAULT).
    One warning for the process if they cannot be locked and the system has swap.
    """
    if size == 0:
        return
    start = address & -mmap.PAGESIZE
    length = ctypes.c_size_t(address + size - start)
    pages = ctypes.c_void_p(start)
    _libc.madvise(pages, length, _MADV_DONTDUMP)
    _libc.madvise(pages, length, _MADV_HUGEPAGE)
    if _libc.mlock2(pages, length, _MLOCK_ONFAULT) != 0:
        _warn_of_swap()


@functools.cache
def _warn_of_swap() -> None:
    if may_swap():
        _log.warning("plaintext in memory is not locked and may reach swap")
