"""One request of the kernel, one reply: the filesystem's operations on a view.

Used by the engine's threads. Requests come from the kernel, but nothing here relies on
their being well-formed. Threading: `answer` is called by all threads at once.
"""

import errno
import itertools
import logging
import os
import stat
import struct
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Self

from ovfuse.errors import IsADirectoryNodeError, NotFoundError
from ovfuse.serve.attributes import (
    BLOCK_SIZE,
    NAME_MAX,
    Access,
    attributes_of,
    filesystem_attributes,
)
from ovfuse.serve.kernel import wire
from ovfuse.serve.kernel.wire import Opcode
from ovfuse.serve.known_nodes import NodeTable
from ovfuse.serve.open_files import OpenFiles
from ovfuse.serve.processes import Caller
from ovfuse.serve.survival.ledger import Ledger, Slot

if TYPE_CHECKING:
    from ovfuse.serve.engine import Setup
    from ovfuse.serve.resident import ResidentFiles
    from ovfuse.view.contract import Node

_log = logging.getLogger(__name__)

__all__ = ["MAX_READ", "REPLY_SIZE", "REQUEST_SIZE", "Operations", "Request"]

MAX_READ: Final = 1 << 20
"""Bytes of a READ; FUSE allows 256 pages."""
REPLY_SIZE: Final = wire.OUT_HEADER.size + MAX_READ
REQUEST_SIZE: Final = 64 * 1024
"""More than any request has that is not a WRITE."""

_VALID_SECONDS: Final = 300
"""What changes is told; that a name is missing is asked for each time."""
_NANOSECONDS: Final = 1_000_000_000
_ANSWERED: Final = frozenset(Opcode) - {Opcode.INIT, Opcode.INTERRUPT}
"""Each by the method of its name."""
_OF_CONTENT: Final = frozenset(
    {Opcode.LOOKUP, Opcode.OPEN, Opcode.READ, Opcode.OPENDIR}
    | {Opcode.READDIR, Opcode.READDIRPLUS}
)
"""What is refused while a mount is locked."""
_NO_GATE: Final = nullcontext(enter_result=True)
_DIRECTORY: Final = stat.S_IFDIR >> 12
_REGULAR: Final = stat.S_IFREG >> 12
"""The kinds of entries, as in readdir(3)."""
_CRASHES_MAX, _KILLS_MAX = 2, 2
"""Of daemons, over one request, before it fails or is not to fill memory."""
_NO_REPLY: Final = frozenset({Opcode.FORGET, Opcode.BATCH_FORGET, Opcode.INTERRUPT})


@dataclass(frozen=True, slots=True)
class Request:
    """The header's fields that matter, what follows it, and whether that is all.

    `slot` is its place in the journal, where a successor finds what it had come to.
    """

    opcode: int
    unique: int
    nodeid: int
    caller: Caller
    body: memoryview
    slot: Slot
    is_whole: bool = True

    @classmethod
    def parse(cls, data: memoryview, slot: Slot) -> Self:
        """Split what was read from the device.

        Raises:
            struct.error: it is shorter than a header.
        """
        length, opcode, unique, nodeid, *ids = wire.IN_HEADER.unpack_from(data)
        body, caller = data[wire.IN_HEADER.size :], Caller(*ids[:3])
        return cls(opcode, unique, nodeid, caller, body, slot, length == len(data))


_Handler = Callable[[Request, memoryview], int]
_Listing = Sequence[tuple[bytes, "Node"]]
"""A directory as it was when it was opened."""


class Operations:
    """What the kernel asks, in terms of the view.

    Args:
        setup: of the mount.
        ledger: what the kernel is told, for a successor.
        resident: keeps files in memory, where that is possible.
    """

    def __init__(
        self,
        setup: "Setup",
        ledger: Ledger | None = None,
        resident: "ResidentFiles | None" = None,
    ) -> None:
        self.ledger: Final = ledger or Ledger()
        self._view = setup.view
        self._failures = setup.failures
        self._access = Access.of(setup.options)
        self.nodes: Final = NodeTable(setup.view, self.ledger.lookups)
        self.files: Final = OpenFiles(
            resident, setup.options.resident, self.ledger.opens, setup.audit
        )
        self._directories: Final[dict[tuple[int, int], _Listing]] = {}
        # Not those of a predecessor, which the kernel may have open yet.
        self._directory_numbers = itertools.count(time.monotonic_ns())
        self._gate = setup.gate
        self._handlers: Final[dict[int, _Handler]] = {
            opcode: getattr(self, f"_{opcode.name.lower()}") for opcode in _ANSWERED
        }

    def passing(self, request: Request) -> AbstractContextManager[bool]:
        """Pass the gate, if it asks for content, until the kernel has the reply."""
        return self._gate.passing() if request.opcode in _OF_CONTENT else _NO_GATE

    def answer(
        self, request: Request, reply: memoryview, *, may_pass: bool = True
    ) -> int:
        """Work one request off.

        Args:
            request: as the kernel sent it.
            reply: REPLY_SIZE bytes, of this thread alone.
            may_pass: else it is refused.

        Returns:
            How many bytes of `reply` to write; 0 for none.
        """
        result = self._resume(request)
        if result is None and may_pass:
            result = self._work(request, reply[wire.OUT_HEADER.size :])
        elif result is None:
            result = -self._failures.refuse(request.caller)
        if request.opcode in _NO_REPLY:
            return 0
        size = wire.OUT_HEADER.size + max(result, 0)
        wire.OUT_HEADER.pack_into(reply, 0, size, min(result, 0), request.unique)
        return size

    def _resume(self, request: Request) -> int | None:
        """Undo what predecessors did for a request; return a result if it has one."""
        before = request.slot.before
        if before is None:
            return None
        if before.crashes >= _CRASHES_MAX:
            _log.error("a request of kind %d ended the daemon twice", request.opcode)
            return -errno.EIO
        if request.opcode == Opcode.RELEASE and before.nodes:
            return 0
        self.take_back(request)
        return None

    def take_back(self, request: Request) -> None:
        """Undo what was noted: the kernel did not wait for, or not get, the reply."""
        if request.opcode == Opcode.RELEASE:
            return  # It stays done, and noted: nobody is to do it again.
        noted = request.slot.noted
        request.slot.note()  # first: else a successor might undo it once more
        for number in noted:
            if request.opcode == Opcode.OPEN:
                self.files.release(number)
            elif request.opcode == Opcode.OPENDIR:
                self._directories.pop((request.nodeid, number), None)
            else:
                self.nodes.forget(number, 1)

    def _work(self, request: Request, payload: memoryview) -> int:
        """Return the bytes of the payload, or a negative errno."""
        if not request.is_whole:
            return -errno.EIO
        handler = self._handlers.get(request.opcode)
        if handler is None:
            return -errno.EROFS if request.opcode in wire.WRITING else -errno.ENOSYS
        try:
            return handler(request, payload)
        except struct.error:
            return -errno.EIO  # not as its kind must be
        except Exception as error:  # noqa: BLE001  whatever it is, it is answered
            kind, path = Opcode(request.opcode).name.lower(), self._path(request)
            return -self._failures.record(kind, path, error, request.caller)

    def _path(self, request: Request) -> bytes:
        try:
            path = self.nodes.get(request.nodeid).path
        except Exception:  # noqa: BLE001  only for the log
            return b"?"
        if request.opcode == Opcode.LOOKUP:
            return path + b"/" + _name(request.body)
        return path or b"/"

    # Names and attributes

    def _lookup(self, request: Request, payload: memoryview) -> int:
        try:
            node = self.nodes.look_up(request.nodeid, _name(request.body))
        except NotFoundError:
            return -errno.ENOENT
        request.slot.note(node.number)
        return self._write_entry(node, payload)

    def _write_entry(self, node: "Node", payload: memoryview) -> int:
        timeouts = (_VALID_SECONDS, _VALID_SECONDS, 0, 0)
        entry = (node.number, 0, *timeouts, *self._attributes(node))
        wire.ENTRY_OUT.pack_into(payload, 0, *entry)
        return wire.ENTRY_OUT.size

    def _forget(self, request: Request, _payload: memoryview) -> int:
        (lookups,) = wire.FORGET_IN.unpack_from(request.body)
        self.nodes.forget(request.nodeid, lookups)
        return 0

    def _batch_forget(self, request: Request, _payload: memoryview) -> int:
        count, _ = wire.BATCH_FORGET_IN.unpack_from(request.body)
        entries = request.body[wire.BATCH_FORGET_IN.size :]
        for index in range(min(count, len(entries) // wire.FORGET_ONE.size)):
            forgotten = wire.FORGET_ONE.unpack_from(entries, index * 16)
            self.nodes.forget(*forgotten)
        return 0

    def _getattr(self, request: Request, payload: memoryview) -> int:
        attributes = self._attributes(self.nodes.get(request.nodeid).node)
        wire.ATTR_OUT.pack_into(payload, 0, _VALID_SECONDS, 0, 0, *attributes)
        return wire.ATTR_OUT.size

    def _attributes(self, node: "Node") -> tuple[int, ...]:
        found = attributes_of(node, self._access)
        seconds, nanoseconds = divmod(found.time_ns, _NANOSECONDS)
        return (
            *(found.number, found.size, found.sectors),
            *(seconds, seconds, seconds),
            *(nanoseconds, nanoseconds, nanoseconds),
            *(found.mode, found.link_count, found.uid, found.gid),
            *(0, BLOCK_SIZE, 0),
        )

    def _statfs(self, _request: Request, payload: memoryview) -> int:
        found = filesystem_attributes(self._view.totals())
        sizes = (BLOCK_SIZE, NAME_MAX, BLOCK_SIZE, 0)
        wire.STATFS_OUT.pack_into(
            payload, 0, found.blocks, 0, 0, found.files, 0, *sizes
        )
        return wire.STATFS_OUT.size

    # Files

    def _open(self, request: Request, payload: memoryview) -> int:
        flags, _ = wire.OPEN_IN.unpack_from(request.body)
        if flags & os.O_ACCMODE != os.O_RDONLY:  # the mount is `ro`: a second fence
            return -errno.EROFS
        known = self.nodes.get(request.nodeid)
        if known.node.is_directory:
            raise IsADirectoryNodeError("it is a directory")
        handle = self._view.open(known.node)
        # Filling it may be what processes were killed over, by the lack of memory.
        may_fill = request.slot.kills < _KILLS_MAX
        opened = (known.node, handle, known.path, request.caller)
        backing = self.files.add(*opened, may_fill=may_fill)
        request.slot.note(known.node.number)
        how = wire.PASSTHROUGH if backing else wire.KEEP_CACHE
        wire.OPEN_OUT.pack_into(payload, 0, known.node.number, how, backing)
        return wire.OPEN_OUT.size

    def _read(self, request: Request, payload: memoryview) -> int:
        fh, offset, size, *_ = wire.READ_IN.unpack_from(request.body)
        return self.files.get(fh).read_into(offset, payload[: min(size, MAX_READ)])

    def _release(self, request: Request, _payload: memoryview) -> int:
        fh = wire.RELEASE_IN.unpack_from(request.body)[0]
        request.slot.note(fh)
        self.files.release(fh)
        return 0

    # Directories

    def _opendir(self, request: Request, payload: memoryview) -> int:
        fh = next(self._directory_numbers)
        self._directories[request.nodeid, fh] = self._list(request.nodeid)
        request.slot.note(fh)
        wire.OPEN_OUT.pack_into(payload, 0, fh, 0, 0)
        return wire.OPEN_OUT.size

    def _list(self, number: int) -> _Listing:
        known = self.nodes.get(number)
        children = self._view.children(known.node)
        return ((b".", known.node), (b"..", self.nodes.parent_of(known)), *children)

    def _readdir(self, request: Request, payload: memoryview) -> int:
        """Write entries; READDIRPLUS tells of each, but of `.` and `..`, as LOOKUP."""
        fh, offset, size, *_ = wire.READ_IN.unpack_from(request.body)
        parent = self.nodes.get(request.nodeid)
        before = wire.ENTRY_OUT.size if request.opcode == Opcode.READDIRPLUS else 0
        # Unless it is known, a predecessor opened it.
        listing = self._directories.get((request.nodeid, fh))
        if listing is None:
            listing = self._directories[request.nodeid, fh] = self._list(request.nodeid)
        position, told = 0, list[int]()
        room = min(size, MAX_READ)
        for index in range(offset, len(listing)):
            name, node = listing[index]
            layout = wire.dirent(len(name))
            if position + before + layout.size > room:
                break
            payload[position : position + before] = bytes(before)
            if before and index > 1 and self.nodes.tell_if_shown(parent, name, node):
                self._write_entry(node, payload[position:])
                told.append(node.number)
            position += before
            kind = _DIRECTORY if node.is_directory else _REGULAR
            facts = (node.number, index + 1, len(name), kind, name)
            layout.pack_into(payload, position, *facts)
            position += layout.size
        request.slot.note(*told)
        return position

    _readdirplus = _readdir

    def _releasedir(self, request: Request, _payload: memoryview) -> int:
        fh = wire.RELEASE_IN.unpack_from(request.body)[0]
        self._directories.pop((request.nodeid, fh), None)
        return 0


def _name(body: memoryview) -> bytes:
    name, end, _ = body.tobytes().partition(b"\0")
    if not end:
        raise struct.error("no NUL")
    return name
