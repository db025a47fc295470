"""How much memory can be had yet: of the machine, and of our control groups.

Beyond that the kernel does not refuse memory; it kills. Stateless; any thread.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

__all__ = ["available", "machine"]

_LEFT_FREE: Final = 16
"""A 16th is never taken."""
_MEMINFO: Final = Path("/proc/meminfo")
_GROUP: Final = Path("/proc/self/cgroup")
_GROUPS: Final = Path("/sys/fs/cgroup")
_RECLAIMABLE: Final = ("inactive_file", "active_file")


def machine() -> int:
    """Return the bytes of memory that the machine has."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def available() -> int:
    """Return the bytes that may be taken; none where that cannot be told."""
    try:
        return min([_of_machine(), *_of_groups()])
    except (OSError, ValueError, LookupError):
        return 0


def _of_machine() -> int:
    """Return what could be had without swapping (proc_meminfo(5))."""
    sizes = dict(line.split()[:2] for line in _lines(_MEMINFO))
    return int(sizes["MemAvailable:"]) * 1024 - machine() // _LEFT_FREE


def _of_groups() -> Iterator[int]:
    """Give what each group of ours has left that has a limit (cgroup v2)."""
    ours = [line[3:] for line in _lines(_GROUP) if line.startswith("0::")]
    for path in ours:
        group = _GROUPS / path.strip("/")
        for place in (group, *group.parents):
            if not place.is_relative_to(_GROUPS):
                break
            if (place / "memory.max").exists():
                yield from _of_group(place)


def _of_group(place: Path) -> Iterator[int]:
    (limit,) = _lines(place / "memory.max")
    if limit != "max":
        (current,) = _lines(place / "memory.current")
        sizes = dict(line.split() for line in _lines(place / "memory.stat"))
        used = int(current) - sum(int(sizes[word]) for word in _RECLAIMABLE)
        yield int(limit) - int(limit) // _LEFT_FREE - used


def _lines(path: Path) -> list[str]:
    return path.read_text(encoding="ascii").splitlines()
