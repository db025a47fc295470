"""Requests that no kernel sends, to the engine's own threads, over a socket.

Each is answered under its own number, by an errno or by what its kind is answered
with, or not at all if nothing of its kind is; and the engine goes on serving. Some
thousand here; OVFUSE_MUTATED_REQUESTS says how many (scripts/soak: a million).
"""

import errno
import logging
import os
import random
import select
import socket
import struct
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ovfuse.errors import MountFailedError, OvfuseError
from ovfuse.sealed.wrapping import Identity
from ovfuse.serve.engine import Setup
from ovfuse.serve.failures import Failures
from ovfuse.serve.kernel import wire
from ovfuse.serve.kernel.engine import Workers
from ovfuse.serve.kernel.operations import REPLY_SIZE, REQUEST_SIZE, Operations
from ovfuse.serve.kernel.wire import Opcode
from ovfuse.serve.known_nodes import ROOT_ID
from ovfuse.serve.options import MountOptions
from ovfuse.serve.processes import NOBODY, Caller
from ovfuse.view.tree import open_view
from tests.hostile.published import NAME, NEW_FILES, make_published, permissive, write
from tests.support.sealed import recipient_of
from tests.support.waiting import wait_until

REQUESTS = int(os.environ.get("OVFUSE_MUTATED_REQUESTS", "20000"))
ROUND = 20_000
"""So many of one seed go to one connection."""
WINDOW = 24
"""So many wait for their answers."""
SILENT = {Opcode.FORGET, Opcode.BATCH_FORGET, Opcode.INTERRUPT}
UNIQUE = slice(8, 16)
LIMITS = (
    0,
    1,
    2,
    1 << 20,
    *(b + d for b in (1 << 31, 1 << 32, 1 << 63) for d in (-1, 0)),
)
NAMES = (
    *(b"a", b"b", NAME.encode(), b"d", b"none", b"a@1", NAME.encode() + b"@1", b"@1"),
    *(b"", b".", b"..", b"a/b", b"\xff\xfe", b"x" * 255, b"x" * 256, b"y" * 4000),
    b"a@9999999999999999",
)


class Kernel:
    """The other end of a connection, which sends what it likes."""

    def __init__(self, setup: Setup) -> None:
        self.operations = Operations(setup)
        self._ours, self._theirs = socket.socketpair(
            socket.AF_UNIX, socket.SOCK_SEQPACKET
        )
        self._ours.settimeout(60)
        self._reply = bytearray(REPLY_SIZE)
        self._numbers = iter(range(2, 1 << 62, 2))
        self._workers = Workers(self._theirs.fileno(), self.operations)
        self._error: Exception | None = None
        self._threads_before = threading.active_count()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()
        self.waiting: dict[int, bytes] = {}
        self.nodes: list[int] = []
        self.handles: list[int] = [0]
        self.interrupts: set[int] = set()
        self.answered = self.refused = self.asked_again = 0

    def _serve(self) -> None:
        try:
            self._workers.run()
        except MountFailedError as error:
            self._error = error

    def unique(self) -> int:
        return next(self._numbers)

    def send(self, data: bytes) -> None:
        """Send a request; note whether an answer is due."""
        self._ours.send(data)
        if len(data) >= wire.IN_HEADER.size:
            _, opcode, unique, *_ = wire.IN_HEADER.unpack_from(data)
            if opcode == Opcode.INTERRUPT:
                self.interrupts.add(unique)
            elif opcode not in SILENT:
                self.waiting[unique] = data

    def receive(self) -> bytes:
        """Return the payload of the next answer, which must be right."""
        size, error, unique = self._receive()
        while unique in self.interrupts:
            assert (size, error) == (wire.OUT_HEADER.size, -errno.EAGAIN)
            self.interrupts.remove(unique)
            self.asked_again += 1
            size, error, unique = self._receive()
        data = self.waiting.pop(unique)
        if is_malformed(data):
            assert error not in (0, -errno.ENOENT)
        payload = bytes(self._reply[wire.OUT_HEADER.size : size])
        if error:
            assert -error in errno.errorcode
            assert payload == b""
            self.refused += 1
        else:
            opcode = wire.IN_HEADER.unpack_from(data)[1]
            self._learn(opcode, payload, data[wire.IN_HEADER.size :])
            self.answered += 1
        return payload

    def _receive(self) -> tuple[int, int, int]:
        size = self._ours.recv_into(self._reply)
        length, error, unique = wire.OUT_HEADER.unpack_from(self._reply)
        assert length == size
        return size, error, unique

    def _learn(self, opcode: int, payload: bytes, body: bytes) -> None:
        FORMS[opcode](payload, body)
        if opcode == Opcode.LOOKUP:
            self.nodes = [*self.nodes[-9:], wire.ENTRY_OUT.unpack(payload)[0]]
        elif opcode in (Opcode.OPEN, Opcode.OPENDIR):
            self.handles = [*self.handles[-9:], wire.OPEN_OUT.unpack(payload)[0]]

    def ask(self, opcode: int, nodeid: int, body: bytes) -> bytes:
        """Send a good request that must succeed, alone; return the payload."""
        refused = self.refused
        self.send(request(opcode, self.unique(), nodeid, body))
        payload = self.receive()
        assert self.refused == refused
        return payload

    def end(self) -> None:
        """Break off with an answer unread, which the engine takes for an error."""
        self._ours.send(request(Opcode.GETATTR, self.unique(), ROOT_ID, b""))
        assert select.select([self._ours], [], [], 60)[0]
        self._ours.close()
        self._thread.join(60)
        assert not self._thread.is_alive()
        assert "broke off" in str(self._error)
        self.operations.files.close()
        wait_until(lambda: threading.active_count() == self._threads_before)
        self._theirs.close()


def is_malformed(data: bytes) -> bool:
    """Tell what must be refused, whatever else is in it."""
    length, opcode, *_ = wire.IN_HEADER.unpack_from(data)
    lacks_end = opcode == Opcode.LOOKUP and b"\0" not in data[wire.IN_HEADER.size :]
    return length != len(data) or lacks_end


def request(opcode: int, unique: int, nodeid: int, body: bytes) -> bytes:
    size = wire.IN_HEADER.size + len(body)
    return wire.IN_HEADER.pack(size, opcode, unique, nodeid, 0, 0, 0, 0, 0) + body


# What a good answer is


def of_size(size: int) -> Callable[[bytes, bytes], None]:
    def check(payload: bytes, body: bytes) -> None:
        assert len(payload) == size

    return check


def check_read(payload: bytes, body: bytes) -> None:
    _, offset, size, *_ = wire.READ_IN.unpack_from(body)
    assert len(payload) <= size
    contents = [data[offset : offset + size] for data in NEW_FILES.values()]
    assert payload in contents


def check_entries(payload: bytes, body: bytes) -> None:
    assert len(payload) <= wire.READ_IN.unpack_from(body)[2]
    while payload:
        _, _, length, kind = wire.DIRENT.unpack_from(payload)
        name = payload[wire.DIRENT.size :][:length]
        assert name in {b".", b"..", b"a", b"b", b"d", NAME.encode()}
        assert kind in (4, 8)
        payload = payload[wire.dirent(length).size :]


def check_full_entries(payload: bytes, body: bytes) -> None:
    while payload:
        number = struct.unpack_from("=Q", payload)[0]
        payload = payload[wire.ENTRY_OUT.size :]
        ino, _, length, _ = wire.DIRENT.unpack_from(payload)
        assert number in (0, ino)
        size = wire.dirent(length).size
        check_entries(payload[:size], body)
        payload = payload[size:]


FORMS: dict[int, Callable[[bytes, bytes], None]] = {
    Opcode.LOOKUP: of_size(wire.ENTRY_OUT.size),
    Opcode.GETATTR: of_size(wire.ATTR_OUT.size),
    Opcode.OPEN: of_size(wire.OPEN_OUT.size),
    Opcode.READ: check_read,
    Opcode.STATFS: of_size(wire.STATFS_OUT.size),
    Opcode.RELEASE: of_size(0),
    Opcode.OPENDIR: of_size(wire.OPEN_OUT.size),
    Opcode.READDIR: check_entries,
    Opcode.RELEASEDIR: of_size(0),
    Opcode.READDIRPLUS: check_full_entries,
}
"""Of each kind that can succeed."""


# What is asked


class Mutations:
    """An endless series of requests, which follows from a seed and the answers."""

    def __init__(self, seed: int, kernel: Kernel) -> None:
        self._chance = random.Random(seed)
        self._kernel = kernel
        self._edits = (
            *(lambda data: None, self._bytes, self._bytes, self._opcode, self._node),
            *(self._number, self._number, self._cut, self._extend),
        )

    def __iter__(self) -> Iterator[bytes]:
        while True:
            data = bytearray(self._good())
            unique = data[UNIQUE]
            for _ in range(self._chance.choice((0, 1, 1, 1, 2, 4))):
                self._chance.choice(self._edits)(data)
            data[UNIQUE] = unique[: max(0, len(data) - 8)]
            yield bytes(data)

    def _good(self) -> bytes:
        """A request as the kernel might send it, of any kind that there is."""
        chance, kernel = self._chance, self._kernel
        opcode = chance.choice((*Opcode, *FORMS, chance.randrange(60)))
        node = chance.choice((ROOT_ID, *kernel.nodes))
        fh = chance.choice((*kernel.handles, node))
        offset, size = (
            chance.choice((0, 1, 4096, 69_999)),
            chance.choice((0, 99, 65536)),
        )
        bodies = {
            Opcode.LOOKUP: chance.choice(NAMES) + b"\0",
            Opcode.FORGET: wire.FORGET_IN.pack(1),
            Opcode.BATCH_FORGET: wire.BATCH_FORGET_IN.pack(2, 0)
            + wire.FORGET_ONE.pack(node, 1) * 2,
            Opcode.OPEN: wire.OPEN_IN.pack(chance.choice((0, 0, 1, 2, 0o100)), 0),
            Opcode.OPENDIR: wire.OPEN_IN.pack(0, 0),
            Opcode.READ: wire.READ_IN.pack(fh, offset, size, 0, 0, 0, 0),
            Opcode.READDIR: wire.READ_IN.pack(fh, offset % 7, size, 0, 0, 0, 0),
            Opcode.READDIRPLUS: wire.READ_IN.pack(fh, offset % 7, size, 0, 0, 0, 0),
            Opcode.RELEASE: wire.RELEASE_IN.pack(fh, 0, 0, 0),
            Opcode.RELEASEDIR: wire.RELEASE_IN.pack(fh, 0, 0, 0),
            Opcode.INTERRUPT: wire.INTERRUPT_IN.pack(
                chance.choice((0, *list(kernel.waiting)[-3:]))
            ),
        }
        body = bodies.get(opcode, chance.randbytes(chance.choice((0, 8, 16, 64))))
        return request(opcode, kernel.unique(), node, body)

    def _bytes(self, data: bytearray) -> None:
        for _ in range(self._chance.choice((1, 2, 8))):
            data[self._chance.randrange(len(data))] = self._chance.randrange(256)

    def _opcode(self, data: bytearray) -> None:
        opcode = self._chance.choice((self._chance.randrange(64), *LIMITS[:8]))
        data[4:8] = struct.pack("=I", opcode % (1 << 32))

    def _node(self, data: bytearray) -> None:
        number = self._chance.choice((0, 1, self._chance.getrandbits(64), *LIMITS))
        data[16:24] = struct.pack("=Q", number)

    def _number(self, data: bytearray) -> None:
        """Set any field to where counting goes wrong."""
        kind = self._chance.choice(("=I", "=Q"))
        size = struct.calcsize(kind)
        start = self._chance.randrange(0, max(1, len(data) - size + 1), 4)
        number = self._chance.choice(LIMITS) % (1 << 8 * size)
        data[start : start + size] = struct.pack(kind, number)

    def _cut(self, data: bytearray) -> None:
        del data[self._chance.randrange(1, len(data) + 1) :]
        self._tell_length(data)

    def _extend(self, data: bytearray) -> None:
        many = self._chance.choice((1, 8, 300, 300, 300, REQUEST_SIZE))
        if many < REQUEST_SIZE or self._chance.random() < 0.01:
            data += self._chance.randbytes(many)
        self._tell_length(data)

    def _tell_length(self, data: bytearray) -> None:
        if self._chance.random() < 0.9 and len(data) >= 4:
            data[:4] = struct.pack("=I", len(data))


class Watched(Failures):
    """Failures that tell what nobody has foreseen."""

    def __init__(self) -> None:
        super().__init__()
        self.unforeseen: list[Exception] = []

    def record(
        self, operation: str, path: bytes, error: Exception, caller: Caller = NOBODY
    ) -> int:
        if not isinstance(error, OvfuseError):
            self.unforeseen.append(error)
        return super().record(operation, path, error, caller)


@pytest.fixture
def setup(tmp_path: Path, identity: Identity) -> Iterator[Setup]:
    """A tree of two sealed models."""
    published = make_published().for_recipient(recipient_of(identity).canonical)
    for place in ("a", "b"):
        write(published.new.files, tmp_path / place / NAME)
    view = open_view(tmp_path, permissive(identity, published))
    yield Setup(
        view=view,
        cipherdir=tmp_path,
        mountpoint=tmp_path,
        options=MountOptions(),
        failures=Watched(),
    )
    view.close()


def look_up(kernel: Kernel, *names: str) -> int:
    node = ROOT_ID
    for name in names:
        entry = kernel.ask(Opcode.LOOKUP, node, name.encode() + b"\0")
        node = struct.unpack_from("=Q", entry)[0]
    return node


def check_alive(kernel: Kernel) -> None:
    """Every file is read, whole, and every directory of a model is listed."""
    for path, data in NEW_FILES.items():
        node = look_up(kernel, "b", NAME, *path.split("/"))
        (fh,) = struct.unpack_from("=Q", kernel.ask(Opcode.OPEN, node, bytes(8)))
        body = wire.READ_IN.pack(fh, 0, 100_000, 0, 0, 0, 0)
        assert kernel.ask(Opcode.READ, node, body) == data
        kernel.ask(Opcode.RELEASE, node, wire.RELEASE_IN.pack(fh, 0, 0, 0))


def test_mutated_requests(setup: Setup, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.CRITICAL, logger="ovfuse")
    answered = refused = 0
    for seed in range(-(-REQUESTS // ROUND)):
        kernel = Kernel(setup)
        check_alive(kernel)
        for number, data in enumerate(Mutations(seed, kernel)):
            if number == ROUND:
                break
            kernel.send(data)
            while len(kernel.waiting) >= WINDOW:
                kernel.receive()
        while kernel.waiting:
            kernel.receive()
        check_alive(kernel)
        kernel.end()
        assert kernel.asked_again > 0
        answered += kernel.answered
        refused += kernel.refused

    sent = -(-REQUESTS // ROUND) * ROUND
    said = f"{sent} requests: {answered} answered, {refused} refused\n"
    sys.stdout.write(said)  # for scripts/soak
    assert isinstance(setup.failures, Watched)
    assert setup.failures.unforeseen == []
    assert answered > sent / 10
    assert refused > sent / 10
