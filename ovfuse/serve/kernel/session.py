"""The handshake after mounting, on the descriptor on which requests then arrive.

Used by the engine, in one thread.
"""

import os
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from ovfuse.errors import MountFailedError
from ovfuse.serve.kernel import wire
from ovfuse.serve.kernel.operations import MAX_READ, REQUEST_SIZE
from ovfuse.serve.kernel.wire import InitFlag, Opcode
from ovfuse.serve.mounting import open_mount

if TYPE_CHECKING:
    from ovfuse.serve.engine import Setup

__all__ = ["Connection", "connect"]

_OLDEST_MINOR: Final = 31
"""Of Linux 5.4."""
_MAX_BACKGROUND: Final = 64
_CONGESTED: Final = 48
_SMALLEST_WRITE: Final = 4096
_EXTENDED_SIZE: Final = wire.IN_HEADER.size + wire.INIT_IN_EXT.size
_PAGES: Final = MAX_READ // os.sysconf("SC_PAGE_SIZE")
_WANTED: Final = (
    InitFlag.ASYNC_READ
    | InitFlag.DO_READDIRPLUS
    | InitFlag.PARALLEL_DIROPS
    | InitFlag.MAX_PAGES
    | InitFlag.INIT_EXT
    | InitFlag.PASSTHROUGH
    | InitFlag.HAS_RESEND
)
_RECORD: Final = "connection"
_STACK_DEPTH: Final = 1
"""Backing files are of a filesystem that is stacked upon no other."""


@dataclass(frozen=True, slots=True)
class Connection:
    """The descriptor that requests come from, and what both sides can do."""

    fd: int
    flags: InitFlag


def connect(setup: "Setup") -> Connection:
    """Mount, and shake hands; or take over what a predecessor had.

    Raises:
        MountFailedError: the kernel or fusermount3 refused.
    """
    for _, record in setup.keeping.take(_RECORD):
        return Connection(record.fds[0], InitFlag(int(bytes(record.data))))
    fd = open_mount(setup, MAX_READ)
    try:
        connection = Connection(fd, _shake_hands(fd))
        setup.keeping.keep(_RECORD, b"%d" % connection.flags, [fd])
        return connection
    except BaseException:
        os.close(fd)
        raise


def _shake_hands(fd: int) -> InitFlag:
    """Answer INIT, the first request, which says what the kernel can do.

    Raises:
        MountFailedError: the kernel is too old, or says something else.
    """
    major = 0
    while major != wire.MAJOR:  # a newer kernel says again what it can do as 7
        try:
            data = os.read(fd, REQUEST_SIZE)
            _, opcode, unique, *_ = wire.IN_HEADER.unpack_from(data)
            said = wire.INIT_IN.unpack_from(data, wire.IN_HEADER.size)
        except OSError as error:
            raise MountFailedError(f"FUSE refused: {error.strerror}") from None
        except struct.error:
            opcode = 0
        if opcode != Opcode.INIT:
            raise MountFailedError("the kernel does not begin with INIT")
        major, minor, readahead, flags = said
        if (major, minor) < (wire.MAJOR, _OLDEST_MINOR):
            raise MountFailedError(
                f"the kernel's FUSE is too old: {major}.{minor}",
                hint="-o engine=libfuse works with older ones",
            )
        if flags & InitFlag.INIT_EXT and len(data) >= _EXTENDED_SIZE:
            *_, more = wire.INIT_IN_EXT.unpack_from(data, wire.IN_HEADER.size)
            flags |= more << 32
        agreed = InitFlag(flags & _WANTED)
        os.write(fd, _init_reply(unique, minor, readahead, agreed))
    return agreed


def _init_reply(unique: int, minor: int, readahead: int, agreed: int) -> bytes:
    payload = wire.INIT_OUT.pack(
        *(wire.MAJOR, min(minor, wire.MINOR), readahead, agreed & 0xFFFFFFFF),
        *(_MAX_BACKGROUND, _CONGESTED, _SMALLEST_WRITE),
        *(1, _PAGES, 0),  # times are in nanoseconds
        *(agreed >> 32, _STACK_DEPTH if agreed & InitFlag.PASSTHROUGH else 0, 0),
    )
    size = wire.OUT_HEADER.size + len(payload)
    return wire.OUT_HEADER.pack(size, 0, unique) + payload
