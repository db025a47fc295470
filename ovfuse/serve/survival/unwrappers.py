"""The keeper's short-lived children, which alone have identities in their memory.

A fork of the keeper is ready at once, and safe: the keeper has one thread. What such a
child does is said by whoever starts the keeper, and not known here. Used by the keeper,
which waits for none of them: it must notice the end of its daemon. Single-threaded.
"""

import ctypes
import os
import signal
import socket
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final, NoReturn

from ovfuse.keeping import Record
from ovfuse.serve.survival.channel import Records

__all__ = ["Unwrap", "Unwrappers", "die_with"]

Unwrap = Callable[[socket.socket], None]
"""Answers the daemon at the other end of a socket until that has what it needs."""

_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_PR_SET_PDEATHSIG: Final = 1
_PR_SET_NAME: Final = 15
_NAME: Final = b"ovfuse-unwrap"
"""What tells it from keeper and daemon in a list of processes."""
_MAX: Final = 64
"""At once; more than that hang on a disk that does not answer."""
_GRACE_SECONDS: Final = 1.0
"""To put the terminal right, of one that was asking there."""
_KILL_SECONDS: Final = 0.2
_LOOK_SECONDS: Final = 0.002
_FIRST_FD: Final = 3
_LAST_FD: Final = 1 << 30


_libc = ctypes.CDLL(None, use_errno=True)


class Unwrappers:
    """Those that live.

    Args:
        unwrap: what each of them does.
        held: descriptors that they, and nobody else, read identities from; owned.
    """

    def __init__(self, unwrap: Unwrap | None, held: Sequence[int] = ()) -> None:
        self._unwrap = unwrap
        self.held: Final = tuple(held)
        self._pids: set[int] = set()

    def start(self, record: Record, records: Records) -> None:
        """Start one; if that cannot be done, the daemon sees its socket closed.

        Args:
            record: with the socket for it; closed.
            records: of the keeper, which the child is to have nothing of.
        """
        if self._unwrap is not None and len(self._pids) < _MAX:
            keeper = os.getpid()
            # As long as it has the keeper's handlers, it must not get a signal.
            signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
            with suppress(OSError):
                pid = os.fork()
                if pid == 0:
                    _run(self._unwrap, record.fds[0], self.held, records, keeper)
                self._pids.add(pid)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
            self.reap()  # it may have ended before it was known
        record.close()

    def empty_held(self) -> None:
        """Let go of what identities are read from: it is not for this process.

        The numbers stay taken, or they would come to mean something else.
        """
        nothing = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        for fd in self.held:
            os.dup2(nothing, fd, inheritable=False)
        os.close(nothing)

    def reap(self, *_: object) -> None:
        """Forget those that have ended; also a handler of SIGCHLD."""
        for pid in tuple(self._pids):
            try:
                has_ended = os.waitpid(pid, os.WNOHANG)[0] == pid
            except ChildProcessError:
                has_ended = True
            if has_ended:
                self._pids.discard(pid)

    def end(self) -> None:
        """End them: their daemon is gone. One that a disk holds up is left behind."""
        for number, seconds in (
            (signal.SIGTERM, _GRACE_SECONDS),
            (signal.SIGKILL, _KILL_SECONDS),
        ):
            for pid in tuple(self._pids):
                with suppress(ProcessLookupError):
                    os.kill(pid, number)
            deadline = time.monotonic() + seconds
            while self._pids and time.monotonic() < deadline:
                time.sleep(_LOOK_SECONDS)
                self.reap()


def die_with(keeper: int, last: signal.Signals = signal.SIGTERM) -> None:
    """Get a last signal when the keeper is killed; nobody else would then know.

    To a daemon, SIGTERM says to unmount; SIGKILL leaves the mount to the next keeper.
    """
    for number in (*_SIGNALS, signal.SIGALRM, signal.SIGCHLD):
        default = signal.default_int_handler if number == signal.SIGINT else None
        signal.signal(number, default or signal.SIG_DFL)
    _libc.prctl(_PR_SET_PDEATHSIG, int(last), 0, 0, 0)
    if os.getppid() != keeper:
        os._exit(1)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)


def _run(
    unwrap: Unwrap, fd: int, held: Sequence[int], records: Records, keeper: int
) -> NoReturn:
    """Do it, with nothing of the mount, and leave without the keeper's half."""
    code = 1
    try:
        _libc.prctl(_PR_SET_NAME, _NAME, 0, 0, 0)
        die_with(keeper)
        for record in records.values():
            record.wipe()
        _close_all_but({fd, *held})
        unwrap(socket.socket(fileno=fd))
        code = 0
    finally:
        os._exit(code)


def _close_all_but(kept: set[int]) -> None:
    first = _FIRST_FD
    for fd in sorted(kept):
        os.closerange(first, fd)
        first = max(first, fd + 1)
    os.closerange(first, _LAST_FD)
