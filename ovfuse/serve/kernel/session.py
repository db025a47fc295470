"""Mounting, and the handshake after it: a descriptor on which requests arrive.

Root asks the kernel itself; everybody else asks fusermount3, which sends the
descriptor back over a socket. Used by the engine, in one thread.
"""

import ctypes
import os
import shutil
import socket
import subprocess
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from ovfuse.errors import MountFailedError
from ovfuse.quote import quoted
from ovfuse.serve.engine import mount_words
from ovfuse.serve.kernel import wire
from ovfuse.serve.kernel.operations import MAX_READ, REQUEST_SIZE
from ovfuse.serve.kernel.wire import InitFlag, Opcode
from ovfuse.serve.mounts import FILESYSTEM_TYPE

if TYPE_CHECKING:
    from ovfuse.serve.engine import Setup

__all__ = ["connect"]

_DEVICE: Final = "/dev/fuse"
_FLAGS: Final = {"ro": 1, "nosuid": 2, "nodev": 4, "noexec": 8}
"""Words of mount(8) and their bits in mount(2)."""
_OLDEST_MINOR: Final = 31
"""Of Linux 5.4."""
_MAX_BACKGROUND: Final = 64
_CONGESTED: Final = 48
_SMALLEST_WRITE: Final = 4096
_PAGES: Final = MAX_READ // os.sysconf("SC_PAGE_SIZE")
_WANTED: Final = (
    InitFlag.ASYNC_READ
    | InitFlag.DO_READDIRPLUS
    | InitFlag.READDIRPLUS_AUTO
    | InitFlag.PARALLEL_DIROPS
    | InitFlag.MAX_PAGES
)


def connect(setup: "Setup") -> int:
    """Mount, shake hands, and return the descriptor of the connection.

    Raises:
        MountFailedError: the kernel or fusermount3 refused.
    """
    words = {word: value for word, value in mount_words(setup).items() if value}
    mount = _mount if os.geteuid() == 0 else _mount_by_helper
    fd = mount(setup, words)
    try:
        _shake_hands(fd)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _mount(setup: "Setup", words: Mapping[str, str | bool]) -> int:
    """Call mount(2), as fusermount3 does."""
    fd = os.open(_DEVICE, os.O_RDWR | os.O_CLOEXEC)
    data = {"fd": fd, "rootmode": "40000", "user_id": os.getuid()}
    data |= {"group_id": os.getgid(), "max_read": MAX_READ}
    rest = [f"{word}={value}" for word, value in data.items()]
    rest += [word for word in ("default_permissions", "allow_other") if word in words]
    libc = ctypes.CDLL(None, use_errno=True)
    status = libc.mount(
        os.fsencode(setup.cipherdir),
        os.fsencode(setup.mountpoint),
        FILESYSTEM_TYPE.encode(),
        ctypes.c_ulong(sum(bit for word, bit in _FLAGS.items() if word in words)),
        ",".join(rest).encode(),
    )
    if status != 0:
        os.close(fd)
        raise MountFailedError(f"FUSE refused: {os.strerror(ctypes.get_errno())}")
    return fd


def _mount_by_helper(setup: "Setup", words: Mapping[str, str | bool]) -> int:
    """Let fusermount3, which may do what we may not, mount and send the descriptor."""
    words = {**words, "max_read": str(MAX_READ)}
    options = ",".join(
        word if value is True else f"{word}={value}" for word, value in words.items()
    )
    program = shutil.which("fusermount3") or "/usr/bin/fusermount3"
    ours, theirs = socket.socketpair()
    with ours, theirs:
        command = [program, "-o", options, "--", os.fspath(setup.mountpoint)]
        try:
            done = subprocess.run(  # noqa: S603  a list, no shell
                [word.encode("utf-8", "surrogateescape") for word in command],
                env={**os.environ, "_FUSE_COMMFD": str(theirs.fileno())},
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                check=False,
            )
        except OSError as error:
            raise MountFailedError(
                f"fusermount3: {error.strerror}", hint="install it: apt install fuse3"
            ) from None
        if done.returncode != 0:
            lines = done.stderr.decode(errors="replace").strip().splitlines()[-1:]
            said = "".join(f": it says {quoted(line)}" for line in lines)
            raise MountFailedError(f"FUSE refused{said}")
        _, descriptors, _, _ = socket.recv_fds(ours, 1, 1)
    if not descriptors:
        raise MountFailedError("FUSE refused: fusermount3 sent no descriptor")
    os.set_inheritable(descriptors[0], False)
    return descriptors[0]


def _shake_hands(fd: int) -> None:
    """Answer INIT, the first request, which says what the kernel can do.

    Raises:
        MountFailedError: the kernel is too old, or says something else.
    """
    major = 0
    while major != wire.MAJOR:  # a newer kernel says again what it can do as 7
        try:
            data = os.read(fd, REQUEST_SIZE)
        except OSError as error:
            raise MountFailedError(f"FUSE refused: {error.strerror}") from None
        _, opcode, unique, *_ = wire.IN_HEADER.unpack_from(data)
        if opcode != Opcode.INIT:
            raise MountFailedError("the kernel does not begin with INIT")
        known = wire.INIT_IN.unpack_from(data, wire.IN_HEADER.size)
        major, minor, readahead, flags = known
        if (major, minor) < (wire.MAJOR, _OLDEST_MINOR):
            raise MountFailedError(f"the kernel's FUSE is too old: {major}.{minor}")
        os.write(fd, _init_reply(unique, minor, readahead, flags))


def _init_reply(unique: int, minor: int, readahead: int, flags: int) -> bytes:
    payload = wire.INIT_OUT.pack(
        *(wire.MAJOR, min(minor, wire.MINOR), readahead, flags & _WANTED),
        *(_MAX_BACKGROUND, _CONGESTED, _SMALLEST_WRITE),
        *(1, _PAGES, 0),  # times are in nanoseconds
        *(0, 0, 0),
    )
    size = wire.OUT_HEADER.size + len(payload)
    return wire.OUT_HEADER.pack(size, 0, unique) + payload
