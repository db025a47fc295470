"""Key bytes in memory: locked, redacted, wiped; and the process around them.

Used by every layer that holds a key. Threading: a `Secret` may be read by many
threads; only its owner wipes it. What cannot be wiped (immutable bytes that
libraries return) is named in SECURITY.md.
"""

import ctypes
import os
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Final, Self

__all__ = ["Secret", "harden_process", "lock_all_memory", "may_swap"]

_PR_SET_DUMPABLE: Final = 4
_MCL_CURRENT, _MCL_FUTURE, _MCL_ONFAULT = 1, 2, 4

_libc = ctypes.CDLL(None, use_errno=True)


class Secret:
    """Fixed-size secret bytes in one locked buffer, wiped on `wipe` or exit.

    The buffer is never resized, so no stale copy is left by a reallocation.
    Locking is best effort: an ordinary user has a small limit, and pages of a
    process that locked all its memory are locked already.
    """

    __slots__ = ("_buffer",)

    def __init__(self, value: bytes | bytearray | memoryview) -> None:
        self._buffer = bytearray(value)
        _lock(self._buffer)

    @classmethod
    def random(cls, size: int) -> Self:
        """Draw `size` bytes from the kernel, straight into the locked buffer."""
        with Path("/dev/urandom").open("rb", buffering=0) as source:
            return cls.filled(size, source.readinto)

    @classmethod
    def filled(cls, size: int, fill: Callable[[bytearray], int | None]) -> Self:
        """Have `size` bytes written straight into the locked buffer.

        Args:
            size: of the secret.
            fill: writes them there, and returns how many there were.

        Raises:
            OSError: there were fewer, or what `fill` raises.
        """
        secret = cls(bytes(size))
        if fill(secret._buffer) != size:
            raise OSError("too few bytes for a secret")
        return secret

    @property
    def view(self) -> memoryview:
        """The bytes, read-only, for the libraries that take a buffer."""
        return memoryview(self._buffer).toreadonly()

    def wipe(self) -> None:
        """Overwrite the bytes with zeros; the object is of no use afterwards."""
        for i in range(len(self._buffer)):
            self._buffer[i] = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.wipe()

    def __len__(self) -> int:
        return len(self._buffer)

    def __repr__(self) -> str:
        return f"<Secret of {len(self._buffer)} bytes>"

    def __reduce__(self) -> str:
        raise TypeError("a Secret is not to be pickled")


def _lock(buffer: bytearray) -> None:
    address = ctypes.addressof((ctypes.c_char * len(buffer)).from_buffer(buffer))
    _libc.mlock(ctypes.c_void_p(address), ctypes.c_size_t(len(buffer)))


def harden_process() -> None:
    """Make this process leave no core dump and refuse ptrace by the same user.

    Raises:
        OSError: the kernel refused, which it does not on Linux.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if _libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def lock_all_memory() -> bool:
    """Keep all memory of this process out of swap; False where not allowed.

    Only tried where no limit applies: under a limit a later allocation would
    fail instead. Pages are locked as they are touched (MCL_ONFAULT), so that
    thread stacks do not become resident as a whole.
    """
    soft, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    if soft != resource.RLIM_INFINITY and not _has_ipc_lock():
        return False
    return bool(_libc.mlockall(_MCL_CURRENT | _MCL_FUTURE | _MCL_ONFAULT) == 0)


def may_swap() -> bool:
    """Tell whether the system has swap, so that memory not locked could reach it."""
    try:
        return len(Path("/proc/swaps").read_text(encoding="ascii").splitlines()) > 1
    except (OSError, UnicodeDecodeError):
        return True  # not known, so assumed


def _has_ipc_lock() -> bool:
    with Path("/proc/self/status").open(encoding="ascii") as status:
        for line in status:
            if line.startswith("CapEff:"):
                return bool(int(line.split()[1], 16) >> 14 & 1)
    return False
