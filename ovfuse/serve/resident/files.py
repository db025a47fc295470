"""The files that are in memory for the kernel to serve, and for how long.

An inode is either resident or not for as long as it is open, since the kernel wants it
so; which of both the first open decides. Threading: `open` may wait for a fill, which
holds up no other file; one thread frees what is not in use any more.
"""

import errno
import fcntl
import logging
import mmap
import os
import signal
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

from ovfuse.errors import SupersededError, describe
from ovfuse.keeping import Keeping
from ovfuse.serve.resident.backing import register, unregister
from ovfuse.serve.resident.budget import Budget
from ovfuse.serve.resident.memory_filesystem import MemoryFilesystem

__all__ = ["ON_DEMAND", "ResidentFiles", "Wanted", "make_resident_files"]

_log = logging.getLogger(__name__)

ON_DEMAND: Final = 0
"""Instead of the number of a backing file, which never is 0."""
_FREED_AFTER_SECONDS: Final = 10.0
_LOOK_SECONDS: Final = 2.5
_RECORD: Final = "resident/"
_FACTS: Final = struct.Struct("<QQQ")
"""Size in bytes, uid, number of the backing file."""
_UNNAMED_MAX: Final = 1024

Fill = Callable[[memoryview], None]
"""Fills a buffer with the whole plaintext, or raises an error of the view's."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """A file that somebody opens.

    Attributes:
        number: of its node.
        size: of its plaintext in bytes, at least 1.
        uid: who opens it.
        fill: see Fill.
        is_worth_it: whether it is to be in memory, if nobody has it open otherwise.
    """

    number: int
    size: int
    uid: int
    fill: Fill
    is_worth_it: bool


@dataclass(slots=True, eq=False)
class _File:
    """A file in memory; `backing` is 0 until it is there, and if it cannot be."""

    size: int
    uid: int
    opens: int = 0
    fd: int = -1
    backing: int = ON_DEMAND
    unused_since: float = 0.0
    error: BaseException | None = None
    settled: threading.Event = field(default_factory=threading.Event)


def make_resident_files(
    connection: int, budget: Budget, keeping: Keeping
) -> "ResidentFiles":
    """Return what keeps them.

    Args:
        connection: the descriptor on which the kernel sends its requests.
        budget: how much may be taken.
        keeping: where files are kept for a successor, and what is inherited.

    Raises:
        OSError: this kernel cannot, or this account may not.
    """
    filesystem = MemoryFilesystem()
    try:
        newest = _try(connection, filesystem)
    except BaseException:
        filesystem.close()
        raise
    files = ResidentFiles(connection, filesystem, budget, keeping)
    files.inherit(newest)
    return files


def _try(connection: int, filesystem: MemoryFilesystem) -> int:
    """Find out whether the kernel lets us, before a large file is decrypted.

    Returns:
        a number that is larger than those of files that were registered before.
    """
    fd = filesystem.new_file(1)
    try:
        number = register(connection, fd)
        unregister(connection, number)
    finally:
        os.close(fd)
    return number


class ResidentFiles:
    """See `make_resident_files`."""

    def __init__(
        self,
        connection: int,
        filesystem: MemoryFilesystem,
        budget: Budget,
        keeping: Keeping,
    ) -> None:
        self._keeping = keeping
        self._connection = connection
        self._filesystem = filesystem
        self._budget = budget
        self._files: dict[int, _File] = {}
        self._on_demand: Counter[int] = Counter()
        self._changed = threading.Condition()
        self._is_closed = False
        self._freeing: threading.Thread | None = None

    def inherit(self, newest: int) -> None:
        """Take over the files of a predecessor.

        Args:
            newest: no file was registered under this number or a larger one.
        """
        for name, record in self._keeping.take(_RECORD):
            size, uid, backing = _FACTS.unpack(record.data)
            file = _File(size, uid, fd=record.fds[0], backing=backing)
            file.unused_since = time.monotonic()
            file.settled.set()
            # It may have died while it had a lease, and more often did not.
            with suppress(OSError):
                fcntl.fcntl(file.fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
            self._files[int(name, 16)] = file
            self._budget.inherit(uid, size)
        # What it had registered when it was killed, and nothing yet could name.
        known = {file.backing for file in self._files.values()}
        for number in range(max(newest - _UNNAMED_MAX, 1), newest):
            if number not in known:
                with suppress(OSError):
                    unregister(self._connection, number)
        with self._changed:
            if self._files:
                self._start_freeing()

    def restore(self, number: int, opens: int) -> None:
        """Note that a file was open in a predecessor, resident or not."""
        file = self._files.get(number)
        if file is None:
            self._on_demand[number] = opens
        else:
            file.opens = opens

    def usage(self) -> tuple[int, int]:
        """Return how many files there are, and how many bytes."""
        with self._changed:
            return len(self._files), self._budget.taken

    def open(self, wanted: Wanted) -> int:
        """Return the backing file's number for an open, or ON_DEMAND.

        Raises:
            OvfuseError: the file is not what was signed, or cannot be read.
        """
        file, is_first = self._join(wanted)
        if file is None:
            return ON_DEMAND
        if is_first:
            self._settle(file, wanted)
        file.settled.wait()
        if file.error is not None:
            raise file.error
        return file.backing

    def release(self, number: int) -> None:
        """Take back one open."""
        with self._changed:
            file = self._files.get(number)
            if file is not None and file.opens:
                file.opens -= 1
                file.unused_since = time.monotonic()
                self._start_freeing()
            elif self._on_demand[number] > 1:
                self._on_demand[number] -= 1
            else:
                del self._on_demand[number]

    def lock(self, *, force: bool) -> bool:
        """Free all, also what is to be freed later; tell whether that was done.

        Args:
            force: also what is open or mapped: mappings of it then end in SIGBUS, and
                reads at once.
        """
        with self._changed:
            files = self._files
            if not force and any(f.opens or _is_in_use(f.fd) for f in files.values()):
                return False
            self._files = {}
            for number in files:  # first: a successor must not find them empty
                self._keeping.drop(_record_of(number))
        for file in files.values():
            os.ftruncate(file.fd, 0)
            self._free(file)
        return True

    def close(self) -> None:
        """Free everything but what is mapped, which goes with its mapping."""
        with self._changed:
            self._is_closed = True
            files, self._files = self._files, {}
            self._changed.notify_all()
        for file in files.values():
            if file.settled.is_set():  # else whoever fills it frees it
                self._free(file)
        self._filesystem.close()

    def _join(self, wanted: Wanted) -> tuple[_File | None, bool]:
        """Return the file to wait for, if any, and whether to fill it."""
        with self._changed:
            file = self._files.get(wanted.number)
            is_first = file is None
            if file is None:
                is_open = wanted.number in self._on_demand
                if (
                    not wanted.is_worth_it
                    or is_open
                    or not self._budget.take(wanted.uid, wanted.size)
                ):
                    self._on_demand[wanted.number] += 1
                    return None, False
                file = self._files[wanted.number] = _File(wanted.size, wanted.uid)
            file.opens += 1
            return file, is_first

    def _settle(self, file: _File, wanted: Wanted) -> None:
        """Fill it, or note why it cannot be."""
        try:
            file.fd = self._filesystem.new_file(file.size)
            self._fill(file.fd, wanted)
            backing = register(self._connection, file.fd)
            facts = _FACTS.pack(file.size, file.uid, backing)
            self._keeping.keep(_record_of(wanted.number), facts, [file.fd])
            file.backing = backing
        except (OSError, MemoryError, SupersededError) as error:
            # No memory, or its object is gone while the handle still has it open.
            _log.info("a file is not kept in memory: %s", describe(error))
        except BaseException as error:  # noqa: BLE001 - raised by every open that waits
            file.error = error
        finally:
            self._budget.filled(file.size)
            with self._changed:
                if file.backing == ON_DEMAND:
                    self._give_up(file, wanted.number)
                elif self._is_closed:
                    self._free(file)
                file.settled.set()

    def _give_up(self, file: _File, number: int) -> None:
        """Have all that wait open it on demand, or not at all; the lock is held.

        All at once: in between, another open could have it in memory after all.
        """
        self._files.pop(number, None)
        if file.error is None:
            self._on_demand[number] += file.opens
        self._free(file)

    def _fill(self, fd: int, wanted: Wanted) -> None:
        mapping = mmap.mmap(fd, wanted.size)
        try:
            with memoryview(mapping) as target:
                wanted.fill(target)
        except BaseException:
            # Its traceback has parts of the mapping, which cannot be closed before.
            os.ftruncate(fd, 0)
            raise
        mapping.close()

    def _start_freeing(self) -> None:
        if self._freeing is None:
            thread = threading.Thread(target=self._free_unused, daemon=True)
            with suppress(RuntimeError):  # a limit of processes: the next may do it
                thread.start()
                self._freeing = thread
        self._changed.notify_all()

    def _free_unused(self) -> None:
        """Free files a while after the last close; those that are mapped later."""
        while True:
            with self._changed:
                if self._is_closed:
                    return
                is_any_unused = any(not file.opens for file in self._files.values())
                self._changed.wait(_LOOK_SECONDS if is_any_unused else None)
                before = time.monotonic() - _FREED_AFTER_SECONDS
                free = [
                    number
                    for number, file in self._files.items()
                    if not file.opens
                    and file.unused_since < before
                    and not _is_in_use(file.fd)
                ]
                files = [self._files.pop(number) for number in free]
                for number in free:  # before another one is kept by the same name
                    self._keeping.drop(_record_of(number))
            for file in files:
                self._free(file)

    def _free(self, file: _File) -> None:
        if file.backing != ON_DEMAND and not self._is_closed:
            unregister(self._connection, file.backing)
        if file.fd >= 0:
            os.close(file.fd)
            file.fd = -1
        self._budget.give_back(file.uid, file.size)


def _record_of(number: int) -> str:
    """Return the name under which the keeper has a file in memory."""
    return f"{_RECORD}{number:x}"


def _is_in_use(fd: int) -> bool:
    """Tell whether anybody but us has the file open or mapped.

    A lease for writing is granted only to the last one who has it (fcntl(2)). The
    kernel's own reference to a backing file is ours. Whoever opened it meanwhile would
    have us signalled, by default with a signal that ends the process. Where there are
    no leases (/proc/sys/fs/leases-enable), it is not known: what is mapped stays, but
    is not counted.
    """
    fcntl.fcntl(fd, fcntl.F_SETSIG, signal.SIGURG)
    try:
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_WRLCK)
    except OSError as error:
        return error.errno == errno.EAGAIN
    fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    return False
