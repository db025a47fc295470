"""How much memory resident files may take: of a mount, of one account, of the machine.

Threading: one lock; any thread.
"""

import os
import threading
from collections import Counter
from pathlib import Path
from typing import Final

__all__ = ["Budget"]

_LEFT_FREE: Final = 16
"""A 16th of the machine's memory is never taken."""


class Budget:
    """Bytes that were taken and may be.

    Args:
        total: bytes for all together; None: half of the machine's memory, which is
            the default of tmpfs as well.
        per_user: bytes for the files that one account opened first; None: all.
    """

    def __init__(self, total: int | None, per_user: int | None) -> None:
        self._total: Final = _machine() // 2 if total is None else total
        self._per_user: Final = self._total if per_user is None else per_user
        self._taken: Counter[int] = Counter()
        self._lock = threading.Lock()

    @property
    def taken(self) -> int:
        """Bytes that are taken."""
        with self._lock:
            return self._taken.total()

    def take(self, uid: int, size: int) -> bool:
        """Take `size` bytes for an account, if there are so many."""
        with self._lock:
            fits = (
                self._taken.total() + size <= self._total
                and self._taken[uid] + size <= self._per_user
                and size <= _available() - _machine() // _LEFT_FREE
            )
            if fits:
                self._taken[uid] += size
        return fits

    def give_back(self, uid: int, size: int) -> None:
        """Give back what was taken."""
        with self._lock:
            self._taken[uid] -= size


def _machine() -> int:
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _available() -> int:
    """Return the bytes that could be had without swapping (proc_meminfo(5))."""
    for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return 0
