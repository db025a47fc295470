"""How many files may be resident, and how large: of a mount, an account, the machine.

Threading: one lock; any thread.
"""

import resource
import threading
from collections import Counter
from typing import Final

from ovfuse.serve.resident.available import available, machine

__all__ = ["Budget"]

_SHARE_OF_DESCRIPTORS: Final = 4
"""A quarter: each file in memory has one, and another one of its object while open."""


class Budget:
    """Bytes that were taken and may be.

    Args:
        total: bytes for all together; None: half of the machine's memory, which is
            the default of tmpfs as well.
        per_user: bytes for the files that one account opened first; None: all.
    """

    def __init__(self, total: int | None, per_user: int | None) -> None:
        self._total: Final = machine() // 2 if total is None else total
        self._per_user: Final = self._total if per_user is None else per_user
        descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        self._files_max: Final = descriptors // _SHARE_OF_DESCRIPTORS
        self._files = self._unfilled = 0
        self._taken: Counter[int] = Counter()
        self._lock = threading.Lock()

    @property
    def taken(self) -> int:
        """Bytes that are taken."""
        with self._lock:
            return self._taken.total()

    def take(self, uid: int, size: int) -> bool:
        """Take `size` bytes for a file of an account, if there are so many.

        Until it is `filled`, the machine seems to have them yet.
        """
        with self._lock:
            fits = (
                self._files < self._files_max
                and self._taken.total() + size <= self._total
                and self._taken[uid] + size <= self._per_user
                and self._unfilled + size <= available()
            )
            if fits:
                self._files += 1
                self._unfilled += size
                self._taken[uid] += size
        return fits

    def inherit(self, uid: int, size: int) -> None:
        """Note what a predecessor took and filled."""
        with self._lock:
            self._files += 1
            self._taken[uid] += size

    def filled(self, size: int) -> None:
        """Note that what was taken for a file is in use, or will not be used."""
        with self._lock:
            self._unfilled -= size

    def give_back(self, uid: int, size: int) -> None:
        """Give back what was taken for a file."""
        with self._lock:
            self._files -= 1
            self._taken[uid] -= size
