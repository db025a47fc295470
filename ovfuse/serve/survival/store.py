"""The service manager's file descriptor store: records that outlive the whole service.

Used by the keeper of a mount that systemd started, alone. A record is there as a sealed
file in memory, with its name and bytes and the numbers of its descriptors. It is the
last that comes and the first that goes: what is left without it is not a record. A new
record of a name comes before the old one goes, and has a larger number. A descriptor is
there once, however many records have the same file, since systemd takes no file twice.
A key is never given away.

Needs `FileDescriptorStoreMax=`, of which $FDSTORE tells: systemd sets it from version
254 on, and the unit does for others. Single-threaded.
"""

import fcntl
import json
import logging
import os
import re
import socket
import time
from collections import deque
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from ovfuse.errors import describe
from ovfuse.keeping import PASSING, Record
from ovfuse.serve.notify import manager_address
from ovfuse.serve.readable import wait_readable
from ovfuse.serve.survival.channel import Records

__all__ = ["Store", "find_store", "forget_store"]

_log = logging.getLogger(__name__)

_VERSION: Final = 1
"""Of the records, as in `reload`: who goes on must mean the same by them."""
_PLAN: Final = "plan"
"""The record of what is mounted, and how."""
_OF_FILES: Final = (PASSING, "resident/")
"""Of these there may be many; a quarter of the room is for what matters more."""
_NAME: Final = re.compile("ovfuse-(record|file)-([0-9]{1,15})")
_RECORD, _FILE = "ovfuse-record", "ovfuse-file"
_FRESH: Final = "ovfuse-fresh"
"""A connection that was made for the service, which has not begun to use it."""
_FIRST: Final = 3
"""SD_LISTEN_FDS_START"""
_PATIENCE_SECONDS: Final = 5.0
_PUT_OFF_SECONDS: Final = 0.05
"""For a file that is closed so soon, the manager is not troubled at all."""
_SEALS: Final = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK


class _Stored(NamedTuple):
    """A record that is there: its number, and the numbers of its files."""

    number: int
    files: list[int]


class Store:
    """What the service manager keeps for this service.

    Args:
        room: how many descriptors there may be.
        facts: of the same store, in the program before in this process.
    """

    def __init__(self, room: int, facts: Mapping[str, Any] | None = None) -> None:
        self._room = room
        facts = facts or {"records": {}, "files": {}}
        self._stored = {n: _Stored(*what) for n, what in facts["records"].items()}
        self._files: dict[str, int] = dict(facts["files"])
        """The numbers of files, by what tells one from another."""
        used = [*self._files.values(), *(r.number for r in self._stored.values())]
        self._last = max(used, default=0)
        self._put_off: Records = {}
        self._due = 0.0
        self._left_out: Records = {}
        self._has_warned = False
        self._unsent: deque[tuple[bytes, int]] = deque()
        self._plan_before: dict[str, Any] = {}
        self.fresh: int | None = None
        """Nobody else's any more; a connection that was made for the service."""
        self.was_inherited = False
        """Whether another keeper, which has ended, left what is gone on with."""

    @property
    def facts(self) -> dict[str, Any]:
        """What another version of the program needs, in the same process."""
        self.flush()
        return {"records": dict(self._stored), "files": dict(self._files)}

    @property
    def place_before(self) -> str:
        """Where was mounted what was there at first; empty if nothing was."""
        return str(self._plan_before.get("mountpoint", ""))

    def take(self, plan: Mapping[str, Any]) -> Records:
        """Return what was there when the service was started; once.

        Args:
            plan: what is to be mounted, and how; what was there for another one is
                not returned.
        """
        records = self._read(_descriptors())
        record = records.pop(_PLAN, None)
        if record is not None:
            self._plan_before = json.loads(bytes(record.data))
            record.close()
        if self._plan_before == plan:
            self.was_inherited = True
            return records
        if record is not None or records:
            _log.warning("what was left by another mount is not gone on with")
        for record in records.values():
            record.close()
        return {}

    def hand_over(self, connection: int) -> None:
        """Have a connection passed to the service when it is started."""
        self._take_out(_FRESH)
        self._add(_FRESH, connection)
        self.settle()

    def plan(self, plan: Mapping[str, Any]) -> None:
        """Note what is mounted, before anything is kept of it."""
        self.put(_PLAN, Record(json.dumps(plan).encode("ascii")))

    def put(self, name: str, record: Record) -> None:
        """Have a record kept, but for its key, in place of the one of that name.

        A PASSING one may be put off; it is used until it is dropped or replaced.
        """
        if name.startswith(PASSING):
            if not self._put_off:
                self._due = time.monotonic() + _PUT_OFF_SECONDS
            self._put_off[name] = record
        else:
            self._put(name, record)

    def wait(self, other: socket.socket) -> None:
        """Return when something comes from `other`; keep what was put off long enough.

        At once, if nothing is put off.
        """
        while self._put_off:
            left = self._due - time.monotonic()
            if left <= 0:
                self.flush()
            elif wait_readable(other, left):
                return

    def flush(self) -> None:
        """Have kept what was put off."""
        while self._put_off:
            self._put(*self._put_off.popitem())

    def _put(self, name: str, record: Record) -> None:
        self._left_out.pop(name, None)
        before = self._stored.pop(name, None)
        keys = [_key_of(fd) for fd in record.fds]
        needed = 1 + len(set(keys) - self._files.keys())
        room = self._room - (self._room // 4 if name.startswith(_OF_FILES) else 0)
        if needed + len(self._stored) + len(self._files) <= room:
            for key, fd in zip(keys, record.fds, strict=True):
                if key not in self._files:
                    self._files[key] = self._next()
                    self._add(f"{_FILE}-{self._files[key]}", fd)
            stored = _Stored(self._next(), [self._files[key] for key in keys])
            memory = _memory_of(name, record, stored)
            self._add(f"{_RECORD}-{stored.number}", memory)
            os.close(memory)
            self._stored[name] = stored
        else:
            self._leave_out(name, record)
        if before is not None:
            self._remove(before)

    def drop(self, name: str) -> None:
        """Have a record kept no more, if there is one of that name."""
        self._put_off.pop(name, None)
        self._left_out.pop(name, None)
        stored = self._stored.pop(name, None)
        if stored is None:
            return
        self._remove(stored)
        for other, record in tuple(self._left_out.items()):
            self._put(other, record)

    def clear(self) -> None:
        """Have nothing kept any more; it is so, within seconds, when this returns."""
        self._put_off.clear()
        self._left_out.clear()
        for name in tuple(self._stored):
            self.drop(name)
        self.settle()

    def settle(self) -> None:
        """Return when the manager has done what it was told; seconds later if not."""
        reader, writer = os.pipe()
        self._send(b"BARRIER=1", writer)
        os.close(writer)
        wait_readable(reader, _PATIENCE_SECONDS)  # until the other end is closed
        os.close(reader)

    def _next(self) -> int:
        self._last += 1
        return self._last

    def _leave_out(self, name: str, record: Record) -> None:
        self._left_out[name] = record
        if not self._has_warned:
            self._has_warned = True
            _log.warning(
                "the descriptor store is full (FileDescriptorStoreMax=%d): "
                "not all that is in use outlives the service",
                self._room,
            )

    def _remove(self, stored: _Stored) -> None:
        """Take out a record, and files that no other one has."""
        self._take_out(f"{_RECORD}-{stored.number}")
        if stored.files:
            used = {number for other in self._stored.values() for number in other.files}
            for key, number in tuple(self._files.items()):
                if number in stored.files and number not in used:
                    del self._files[key]
                    self._take_out(f"{_FILE}-{number}")

    def _read(self, fds: Mapping[str, int]) -> Records:
        """Return the records that are whole; of all others, nothing is left."""
        fds = dict(fds)
        self.fresh = fds.pop(_FRESH, None)
        if self.fresh is not None:
            # If this process ends now, so does the connection: whoever went on could
            # not tell whether the kernel was answered, and would wait in vain.
            self._take_out(_FRESH)
            self.settle()
        numbered = [(m[1], int(m[2]), fd) for n, fd in fds.items() if (m := _is_own(n))]
        files = {number: fd for kind, number, fd in numbered if kind == "file"}
        self._last = max((number for _, number, _ in numbered), default=0)
        self._files = {_key_of(fd): number for number, fd in files.items()}
        records: Records = {}
        for kind, number, memory in sorted(numbered):
            if kind == "file":
                continue
            try:
                name, stored, record = _record_of(number, memory, files)
            except (OSError, ValueError, KeyError, TypeError):
                _log.warning("a record that was left is not whole")
                self._take_out(f"{_RECORD}-{number}")
                continue
            if name in records:
                records.pop(name).close()
                self._take_out(f"{_RECORD}-{self._stored[name].number}")
            records[name], self._stored[name] = record, stored
        used = {number for stored in self._stored.values() for number in stored.files}
        self._files = {key: n for key, n in self._files.items() if n in used}
        for name in fds:
            match = _is_own(name)
            if not match or (match[1] == "file" and int(match[2]) not in used):
                self._take_out(name)
        for fd in fds.values():
            os.close(fd)
        return records

    def _add(self, name: str, fd: int) -> None:
        # Nobody is to wait on the connection for an error: it would wake the manager
        # at every request of the kernel's.
        self._send(f"FDSTORE=1\nFDPOLL=0\nFDNAME={name}".encode("ascii"), fd)

    def _take_out(self, name: str) -> None:
        self._send(f"FDSTOREREMOVE=1\nFDNAME={name}".encode())

    def _send(self, message: bytes, fd: int = -1) -> None:
        """Tell the manager, after all that it was not told yet because it was busy."""
        self._unsent.append((message, fd))
        patience = _PATIENCE_SECONDS if len(self._unsent) == 1 else 0.1
        try:
            with _connected(patience) as manager:
                while self._unsent:
                    text, sent = self._unsent[0]
                    socket.send_fds(manager, [text], [sent] if sent >= 0 else [])
                    self._unsent.popleft()
                    if sent not in {fd, -1}:
                        os.close(sent)
        except OSError as error:
            if fd >= 0:
                self._unsent[-1] = (message, os.dup(fd))
            _log.warning("the service manager does not listen: %s", describe(error))


def find_store(facts: Mapping[str, Any] | None = None) -> Store | None:
    """Return the service manager's store, if it has one for this service.

    Args:
        facts: of the same store, in the program before in this process.
    """
    room = os.environ.get("FDSTORE", "")
    if not manager_address() or not re.fullmatch("[1-9][0-9]{0,6}", room):
        return None
    return Store(int(room), facts)


def forget_store() -> None:
    """Close what the service manager passed on, which is of no use."""
    for fd in _descriptors().values():
        os.close(fd)


def _descriptors() -> dict[str, int]:
    """Return what the service manager passed on, by name; once."""
    pid = os.environ.pop("LISTEN_PID", "")
    count = os.environ.pop("LISTEN_FDS", "")
    names = os.environ.pop("LISTEN_FDNAMES", "")
    if pid != f"{os.getpid()}" or not count.isdigit():
        return {}
    found: dict[str, int] = {}
    for fd, name in zip(
        range(_FIRST, _FIRST + int(count)), names.split(":"), strict=False
    ):
        os.set_inheritable(fd, False)
        if name in found:
            os.close(fd)  # none of ours
        else:
            found[name] = fd
    return found


def _connected(patience: float) -> socket.socket:
    manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
    try:
        manager.settimeout(patience)
        manager.connect(manager_address())
    except OSError:
        manager.close()
        raise
    return manager


def _is_own(name: str) -> "re.Match[str] | None":
    return _NAME.fullmatch(name)


def _key_of(fd: int) -> str:
    """Return what tells a file from another one, while either is open."""
    status = os.fstat(fd)
    return f"{status.st_dev}:{status.st_ino}:{status.st_rdev}"


def _memory_of(name: str, record: Record, stored: _Stored) -> int:
    head = {"version": _VERSION, "name": name, "files": stored.files}
    flags = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
    memory = os.memfd_create("ovfuse-record", flags)
    os.writev(memory, [json.dumps(head).encode("ascii") + b"\n", record.data])
    fcntl.fcntl(memory, fcntl.F_ADD_SEALS, _SEALS)
    return memory


def _record_of(
    number: int, memory: int, files: Mapping[int, int]
) -> tuple[str, _Stored, Record]:
    """Return a record with its name, and with descriptors of its own.

    Raises:
        OSError, ValueError, KeyError, TypeError: it is not whole.
    """
    size = os.fstat(memory).st_size
    head, _, data = os.pread(memory, size, 0).partition(b"\n")
    facts = json.loads(head)
    if facts["version"] != _VERSION:
        raise ValueError("it is of another version")
    stored = _Stored(number, list(facts["files"]))
    fds = [files[file] for file in stored.files]
    return str(facts["name"]), stored, Record(data, [os.dup(fd) for fd in fds])
