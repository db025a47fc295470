"""What the kernel was told, in memory that a killed process leaves to its successor.

Three files in memory, of little-endian 64-bit words. The journal has a slot for each
request that is at work: its number, how many daemons crashed and how many were killed
over it, and the nodes that it told of, opened or released. The others count lookups
and opens of nodes. A process that is killed in between leaves a count too high, never
too low: that keeps something open for longer, while the other way round something in
use would be gone.

Used by the kernel engine. Threading: a slot is one thread's; see Counts for these.
"""

import mmap
import os
import struct
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from ovfuse.keeping import Keeping

__all__ = ["Ledger", "Slot", "Unfinished", "take_over_ledger"]

_RECORD: Final = "ledger"
_SLOTS: Final = 256
"""For as many threads as serve, and for what their predecessors left unfinished."""
_SLOT_SIZE: Final = 64 * 1024
"""Sparse; room for the nodes that one reply can tell of, 160 bytes each in 1 MiB."""
_SLOT: Final = struct.Struct("<QQQQ")
"""unique, crashes, kills, count; then the nodes"""
_WORD: Final = struct.Struct("<Q")
_COUNT: Final = 3 * _WORD.size
"""Where the last word of a slot's head is."""
_ENTRY: Final = struct.Struct("<QQ")
"""node, count; a count of 0 where nothing is"""
_GROWTH: Final = 4096 * _ENTRY.size
_OLD: Final = 8
"""Deaths after which a slot is free: its request had been answered long before."""


@dataclass(frozen=True, slots=True)
class Unfinished:
    """A request that a process was at work on when it died.

    Attributes:
        nodes: that were told, opened or released for it already.
        crashes: how many processes ended by themselves meanwhile.
        kills: how many were killed.
    """

    nodes: tuple[int, ...]
    crashes: int
    kills: int


class Slot:
    """A line of the journal, for one thread."""

    def __init__(self, memory: mmap.mmap, index: int) -> None:
        self._memory = memory
        self.index: Final = index
        self._start = index * _SLOT_SIZE
        self.noted: Sequence[int] = ()
        """What was noted for the request."""
        self.before: Unfinished | None = None
        """What predecessors had come to with the request."""

    @property
    def kills(self) -> int:
        """How many predecessors were killed over it."""
        return self.before.kills if self.before else 0

    def begin(self, unique: int, before: Unfinished | None) -> None:
        """Note that a request is at work, and how others ended over it."""
        crashes, kills = (before.crashes, before.kills) if before else (0, 0)
        self.noted, self.before = (), before
        _SLOT.pack_into(self._memory, self._start, unique, crashes, kills, 0)

    def note(self, *nodes: int) -> None:
        """Note all that is told, opened or released for it."""
        self.noted = nodes
        start = self._start + _SLOT.size
        struct.pack_into(f"<{len(nodes)}Q", self._memory, start, *nodes)
        _WORD.pack_into(self._memory, self._start + _COUNT, len(nodes))

    def end(self) -> None:
        """Note that it is answered."""
        _WORD.pack_into(self._memory, self._start, 0)


class Counts:
    """How often each node is this or that; whoever uses it holds a lock of his own.

    Args:
        fd: of the file that it is in, at the end of which it grows; owned.
    """

    def __init__(self, fd: int) -> None:
        self._fd: Final = fd
        self._size = os.fstat(fd).st_size or self._grown(0)
        self._memory = mmap.mmap(fd, self._size)
        self._at: dict[int, int] = {}
        self._free: list[int] = []
        for offset in range(self._size - _ENTRY.size, -1, -_ENTRY.size):
            node, count = _ENTRY.unpack_from(self._memory, offset)
            if count:
                self._at[node] = offset
            else:
                self._free.append(offset)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        """Yield nodes and counts, as they are now."""
        for offset in tuple(self._at.values()):
            yield _ENTRY.unpack_from(self._memory, offset)

    def __setitem__(self, node: int, count: int) -> None:
        """Note how often it is; 0 takes it out."""
        offset = self._at.get(node)
        if offset is None:
            if not self._free:
                self._extend()
            offset = self._at[node] = self._free.pop()
        _ENTRY.pack_into(self._memory, offset, node, count)
        if not count:
            del self._at[node]
            self._free.append(offset)

    def _extend(self) -> None:
        before, self._size = self._size, self._grown(self._size)
        self._memory.close()
        self._memory = mmap.mmap(self._fd, self._size)
        self._free.extend(range(self._size - _ENTRY.size, before - 1, -_ENTRY.size))

    def _grown(self, size: int) -> int:
        size += max(size, _GROWTH)
        os.ftruncate(self._fd, size)
        return size


class Ledger:
    """See the module.

    Args:
        fds: what a predecessor left, or nothing; owned.
        crashed: whether that one ended by itself rather than being killed.

    Attributes:
        lookups: how often the kernel was told of each node, less what it forgot.
        opens: how often each is open.
    """

    def __init__(self, fds: Sequence[int] = (), *, crashed: bool = False) -> None:
        self.fds: Final = tuple(fds) or tuple(
            os.memfd_create(f"ovfuse-{name}")
            for name in ("journal", "lookups", "opens")
        )
        journal, lookups, opens = self.fds
        os.ftruncate(journal, _SLOTS * _SLOT_SIZE)
        self._journal = mmap.mmap(journal, _SLOTS * _SLOT_SIZE)
        self.lookups: Final = Counts(lookups)
        self.opens: Final = Counts(opens)
        self._lock = threading.Lock()
        self._free = list(range(_SLOTS))
        self._unfinished: dict[int, tuple[Slot, Unfinished]] = {}
        if fds:
            self._read_journal(crashed=crashed)

    @property
    def unfinished(self) -> list[int]:
        """The requests that predecessors may not have answered."""
        return list(self._unfinished)

    def slot(self) -> Slot:
        """Return a slot that is free; `give_back` it."""
        with self._lock:
            return Slot(self._journal, self._free.pop())

    def give_back(self, slot: Slot) -> None:
        """Take a slot back."""
        slot.end()
        with self._lock:
            self._free.append(slot.index)

    def take_unfinished(self, unique: int) -> Unfinished | None:
        """Return what became of a request that comes again, once."""
        with self._lock:
            found = self._unfinished.pop(unique, None)
        if found is None:
            return None
        self.give_back(found[0])
        return found[1]

    def _read_journal(self, *, crashed: bool) -> None:
        for index in range(_SLOTS):
            start = index * _SLOT_SIZE
            unique, crashes, kills, count = _SLOT.unpack_from(self._journal, start)
            crashes, kills = crashes + crashed, kills + (not crashed)
            if not unique or crashes + kills > _OLD:
                _WORD.pack_into(self._journal, start, 0)
                continue
            _SLOT.pack_into(self._journal, start, unique, crashes, kills, count)
            nodes = struct.unpack_from(f"<{count}Q", self._journal, start + _SLOT.size)
            found = Unfinished(nodes, crashes, kills)
            self._unfinished[unique] = (Slot(self._journal, index), found)
            self._free.remove(index)


def take_over_ledger(keeping: Keeping) -> Ledger:
    """Return a predecessor's ledger, or a new one for successors."""
    for _, record in keeping.take(_RECORD):
        return Ledger(record.fds, crashed=keeping.predecessor_crashed)
    ledger = Ledger()
    keeping.keep(_RECORD, b"", ledger.fds)
    return ledger
