"""What the kernel was told, in memory that a killed process leaves to its successor.

Three files in memory, of 64-bit words, each of which is stored at once. The journal has
a slot for each request that is at work: its number, how many daemons crashed and how
many were killed over it, and the nodes that it told of, opened or released. The others
count lookups and opens of nodes. A process that is killed in between leaves a count too
high, never too low: that keeps something open for longer, while the other way round
something in use would be gone.

Used by the kernel engine. Threading: a slot is one thread's; see Counts for these.
"""

import mmap
import os
import threading
from array import array
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
_WORD: Final = 8
_UNIQUE, _LAST, _CRASHES, _KILLS, _AGE, _COUNT, _NODES = range(7)
"""The words of a slot: the request at work, or 0; the last one that was; how many
daemons crashed and were killed over it, and died since; how many nodes follow."""
_WAITING: Final = 1 << 62
"""Of a request's number in a slot: a predecessor left it, and nobody took it up yet."""
_ENTRY_SIZE: Final = 2 * _WORD
"""A node and its count, which is 0 where nothing is."""
_GROWTH: Final = 4096 * _ENTRY_SIZE
_OLD: Final = 8
"""Deaths after which a slot is free: its request had been answered long before."""
_STEP: Final = 2
"""From one request's number to the next one's."""
_NEAR: Final = 2048
"""So many requests around the newest may have been read and not be in the journal."""


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

    @property
    def deaths(self) -> int:
        """How many processes were at work on it."""
        return self.crashes + self.kills


class Slot:
    """A line of the journal, for one thread."""

    def __init__(self, journal: memoryview, index: int) -> None:
        size = _SLOT_SIZE // _WORD
        self._words = journal[index * size : (index + 1) * size]
        self.index: Final = index
        self.noted: Sequence[int] = ()
        """What was noted for the request."""
        self.before: Unfinished | None = None
        """What predecessors had come to with the request."""

    @property
    def kills(self) -> int:
        """How many predecessors were killed over it."""
        return self.before.kills if self.before else 0

    def begin(self, unique: int, before: Unfinished | None) -> None:
        """Note that a request is at work, and how others ended over it.

        What they had noted stays noted, until it is undone.
        """
        crashes, kills = (before.crashes, before.kills) if before else (0, 0)
        self.before = before
        self.note(*(before.nodes if before else ()))
        words = self._words
        words[_CRASHES], words[_KILLS] = crashes, kills
        words[_AGE], words[_LAST] = 0, unique
        words[_UNIQUE] = unique  # last: from here on a successor reads the rest

    def note(self, *nodes: int) -> None:
        """Note all that is told, opened or released for it, and nothing else."""
        self.noted = nodes
        self._words[_COUNT] = 0  # else some might be taken together with older ones
        self._words[_NODES : _NODES + len(nodes)] = array("Q", nodes)
        self._words[_COUNT] = len(nodes)

    def end(self) -> None:
        """Note that it is answered."""
        self._words[_UNIQUE] = 0

    def inherit(self, *, crashed: bool) -> tuple[int, Unfinished] | None:
        """Return the request that it was left with, and note another death.

        Args:
            crashed: whether its process ended by itself rather than being killed.
        """
        words = self._words
        unique = words[_UNIQUE]
        if not unique or words[_AGE] >= _OLD:
            self.end()
            return None
        if not unique & _WAITING:
            words[_UNIQUE] = unique | _WAITING
            words[_CRASHES if crashed else _KILLS] += 1
        words[_AGE] += 1
        nodes = tuple(words[_NODES : _NODES + words[_COUNT]])
        found = Unfinished(nodes, crashes=words[_CRASHES], kills=words[_KILLS])
        return unique & ~_WAITING, found

    @property
    def last(self) -> int:
        """The last request that was at work here."""
        return self._words[_LAST]


class Counts:
    """How often each node is this or that; whoever uses it holds a lock of his own.

    Args:
        fd: of the file that it is in, at the end of which it grows; owned.
    """

    def __init__(self, fd: int) -> None:
        self._fd: Final = fd
        self._size = os.fstat(fd).st_size or self._grown(0)
        self._words = _words(fd, self._size)
        self._at: dict[int, int] = {}
        self._free: list[int] = []
        for place in range(len(self._words) - 2, -1, -2):
            node, count = self._words[place : place + 2]
            if count:
                self._at[node] = place
            else:
                self._free.append(place)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        """Yield nodes and counts, as they are now."""
        for node, place in tuple(self._at.items()):
            yield node, self._words[place + 1]

    def __setitem__(self, node: int, count: int) -> None:
        """Note how often it is; 0 takes it out."""
        place = self._at.get(node)
        if place is None:
            if not self._free:
                self._extend()
            place = self._at[node] = self._free.pop()
            self._words[place] = node
        self._words[place + 1] = count
        if not count:
            del self._at[node]
            self._free.append(place)

    def _extend(self) -> None:
        before, self._size = self._size, self._grown(self._size)
        self._words = _words(self._fd, self._size)
        self._free.extend(range(len(self._words) - 2, before // _WORD - 1, -2))

    def _grown(self, size: int) -> int:
        size += max(size, _GROWTH)
        os.ftruncate(self._fd, size)
        return size


def _words(fd: int, size: int) -> memoryview:
    """Map a file: unlike struct, which first writes zeros, this stores whole words."""
    return memoryview(mmap.mmap(fd, size)).cast("Q")


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
        self._journal = _words(journal, _SLOTS * _SLOT_SIZE)
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

    @property
    def unanswered(self) -> set[int]:
        """All numbers of requests that predecessors may have read and not answered.

        Those, too, that they had read and not yet noted; most of these never were.
        """
        newest = max(Slot(self._journal, index).last for index in range(_SLOTS))
        first = max(newest - _NEAR * _STEP, _STEP)
        around = range(first, newest + _NEAR * _STEP, _STEP) if newest else ()
        return {*self._unfinished, *around}

    def slot(self) -> Slot:
        """Return a slot that is free; `give_back` it."""
        with self._lock:
            return Slot(self._journal, self._free.pop())

    def give_back(self, slot: Slot) -> None:
        """Take a slot back."""
        slot.end()
        with self._lock:
            self._free.append(slot.index)

    def begin(self, slot: Slot, unique: int, *, comes_again: bool) -> None:
        """Note that a request is at work; `slot.before` is what became of it, once.

        Args:
            slot: for it.
            unique: its number.
            comes_again: whether a predecessor may have been at work on it.
        """
        if not comes_again:
            slot.begin(unique, None)
            return
        with self._lock:
            old, before = self._unfinished.pop(unique, (None, None))
        slot.begin(unique, before)
        if old is not None:  # only now: at every moment one of both says what was done
            self.give_back(old)

    def _read_journal(self, *, crashed: bool) -> None:
        for index in range(_SLOTS):
            slot = Slot(self._journal, index)
            found = slot.inherit(crashed=crashed)
            if found is not None:
                self._free.remove(index)
                self._leave(found[0], (slot, found[1]))

    def _leave(self, unique: int, found: tuple[Slot, Unfinished]) -> None:
        """Leave a request for when it comes again.

        It is in two slots if its process died in `begin`. Both note the same, but that
        death was counted in the newer one alone, which is the one to keep.
        """
        other = self._unfinished.get(unique)
        if other is not None and other[1].deaths > found[1].deaths:
            found, other = other, found
        self._unfinished[unique] = found
        if other is not None:
            self.give_back(other[0])


def take_over_ledger(keeping: Keeping) -> Ledger:
    """Return a predecessor's ledger, or a new one for successors."""
    for _, record in keeping.take(_RECORD):
        return Ledger(record.fds, crashed=keeping.predecessor_crashed)
    ledger = Ledger()
    keeping.keep(_RECORD, b"", ledger.fds)
    return ledger
