"""What is in the memory of a process, as root sees it in /proc."""

import os
import re
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.support.key_forms import Forms, forms_found

__all__ = ["descendants_of", "forms_in_memory", "standing_still"]

_PIECE_SIZE = 16 << 20
_OVERLAP = 256  # no form is longer


@contextmanager
def standing_still(pid: int) -> Iterator[None]:
    """Stop a process meanwhile; one that has ended is left alone."""
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


def forms_in_memory(pid: int, forms: Forms) -> set[str]:
    """Return which forms are in the memory that a process can write to, or could."""
    found: set[str] = set()
    with suppress(FileNotFoundError, ProcessLookupError), standing_still(pid):
        maps = Path(f"/proc/{pid}/maps").read_text("utf-8", "replace")
        with Path(f"/proc/{pid}/mem").open("rb", buffering=0) as memory:
            for start, end in _private(maps):
                found.update(_found_between(memory.fileno(), start, end, forms))
    return found


def _private(maps: str) -> Iterator[tuple[int, int]]:
    """Yield the ranges that are not files of the disk."""
    for line in maps.splitlines():
        match = re.match(r"([0-9a-f]+)-([0-9a-f]+) (\S+) \S+ \S+ (\d+)", line)
        assert match is not None
        is_file, is_writable = match[4] != "0", "w" in match[3]
        is_the_kernels = line.endswith(("[vvar]", "[vdso]", "[vsyscall]"))
        if "r" in match[3] and (is_writable or not is_file) and not is_the_kernels:
            yield int(match[1], 16), int(match[2], 16)


def _found_between(fd: int, start: int, end: int, forms: Forms) -> Iterator[str]:
    for offset in range(start, end, _PIECE_SIZE):
        size = min(_PIECE_SIZE + _OVERLAP, end - offset)
        with suppress(OSError):  # no page there, or none that anybody may read
            yield from forms_found(forms, os.pread(fd, size, offset))


def descendants_of(pid: int) -> set[int]:
    """Return a process and all that it started, as far as they live."""
    found = {pid}
    with suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                found |= descendants_of(int(child))
    return found
