"""Mounts without a library: gives the descriptor on which the kernel's requests arrive.

Root asks the kernel itself; everybody else asks fusermount3, which sends the
descriptor back over a socket. Used by engines, in one thread.
"""

import ctypes
import os
import socket
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from ovfuse.errors import MountFailedError
from ovfuse.mountinfo import FILESYSTEM_TYPE
from ovfuse.quote import quoted
from ovfuse.serve.engine import Setup, mount_words
from ovfuse.serve.mounts import fusermount

__all__ = ["ask_kernel", "open_mount"]

_DEVICE: Final = "/dev/fuse"
_FLAGS: Final = {"ro": 1, "nosuid": 2, "nodev": 4, "noexec": 8}
"""Words of mount(8) and their bits in mount(2)."""


def open_mount(setup: Setup, max_read: int) -> int:
    """Mount, unless that was done; nobody answers for the mount yet.

    Args:
        setup: what is mounted where.
        max_read: bytes that one request may ask for.

    Raises:
        MountFailedError: the kernel or fusermount3 refused.
    """
    if setup.connection is not None:
        return setup.connection
    words = {word: value for word, value in mount_words(setup).items() if value}
    mount = ask_kernel if os.geteuid() == 0 else _mount_by_helper
    return mount(setup.cipherdir, setup.mountpoint, words, max_read)


def ask_kernel(
    cipherdir: Path, mountpoint: Path, words: Mapping[str, str | bool], max_read: int
) -> int:
    """Call mount(2), as fusermount3 does.

    Args:
        cipherdir: shown as the source.
        mountpoint: where to mount.
        words: options, as in mount(8).
        max_read: bytes that one request may ask for.

    Raises:
        MountFailedError: the kernel refused.
    """
    try:
        fd = os.open(_DEVICE, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        raise MountFailedError(f"{_DEVICE}: {error.strerror}") from None
    data = {"fd": fd, "rootmode": "40000", "user_id": os.getuid()}
    data |= {"group_id": os.getgid(), "max_read": max_read}
    rest = [f"{word}={value}" for word, value in data.items()]
    rest += [word for word in ("default_permissions", "allow_other") if word in words]
    libc = ctypes.CDLL(None, use_errno=True)
    status = libc.mount(
        os.fsencode(cipherdir),
        os.fsencode(mountpoint),
        FILESYSTEM_TYPE.encode(),
        ctypes.c_ulong(sum(bit for word, bit in _FLAGS.items() if word in words)),
        ",".join(rest).encode(),
    )
    if status != 0:
        os.close(fd)
        raise MountFailedError(f"FUSE refused: {os.strerror(ctypes.get_errno())}")
    return fd


def _mount_by_helper(
    _cipherdir: Path, mountpoint: Path, words: Mapping[str, str | bool], max_read: int
) -> int:
    """Let fusermount3, which may do what we may not, mount and send the descriptor."""
    words = {**words, "max_read": str(max_read)}
    options = ",".join(
        word if value is True else f"{word}={value}" for word, value in words.items()
    )
    ours, theirs = socket.socketpair()
    with ours, theirs:
        command = [fusermount(), "-o", options, "--", os.fspath(mountpoint)]
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
        theirs.close()  # else nothing would end the wait if it sent nothing
        _, descriptors, _, _ = socket.recv_fds(ours, 1, 1)
    if not descriptors:
        raise MountFailedError("FUSE refused: fusermount3 sent no descriptor")
    os.set_inheritable(descriptors[0], False)
    return descriptors[0]
