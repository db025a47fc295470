"""A daemon is started, and its parent waits until the mount answers or fails.

Used by the lifecycle. The fork comes before any thread and before any key: locks
on memory are not inherited. Over a socket pair the child says `ready` or which
error it was; the parent confirms that it heard. If either dies before that, the
other notices and nothing stays mounted.
"""

import json
import os
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final, NoReturn, Protocol

from ovfuse import errors
from ovfuse.errors import MountFailedError, OvfuseError, describe

__all__ = ["Launch", "QuietLaunch", "describe_error", "error_of", "run_in_background"]

_READY: Final = b"ready\n"
_HEARD: Final = b"heard\n"
_MAX_RECORD_SIZE: Final = 64 * 1024


class Launch(Protocol):
    """What the start of a mount tells to whoever waits for it."""

    def detach(self) -> None:
        """All is asked that may need the terminal."""

    def settle(self) -> None:
        """Let go of the terminal: nothing is printed there any more."""

    def ready(self) -> bool:
        """The mount answers. False: nobody waits any more, so stop."""

    def report(self, status: str) -> None:
        """The mount answers still; this is how it is."""

    def stopping(self) -> None:
        """The mount is gone or about to go."""


class QuietLaunch:
    """Nobody waits."""

    def detach(self) -> None:
        """Do nothing."""

    def settle(self) -> None:
        """Do nothing."""

    def ready(self) -> bool:
        """Say that all is well."""
        return True

    def report(self, status: str) -> None:
        """Do nothing."""

    def stopping(self) -> None:
        """Do nothing."""


class _ChildLaunch:
    """The child's end of the socket pair."""

    def __init__(self, parent: socket.socket) -> None:
        self._parent = parent

    def detach(self) -> None:
        os.setsid()

    def settle(self) -> None:
        # Of the caller's terminal and pipes: a caller that reads our output to its
        # end must not wait for as long as the mount lives.
        _forget_terminal()
        os.chdir("/")
        os.umask(0o077)

    def ready(self) -> bool:
        try:
            self._parent.sendall(_READY)
            heard = self._parent.recv(len(_HEARD)) == _HEARD
        except OSError:
            return False
        self._parent.close()
        return heard

    def report(self, status: str) -> None:
        pass

    def stopping(self) -> None:
        pass


def run_in_background(serve: Callable[[Launch], None]) -> bool:
    """Fork; in the child, serve and exit; in the parent, wait for the outcome.

    Returns:
        True once the mount answers; False if the child died without a word, so
        that the caller may look at what it left behind.

    Raises:
        OvfuseError: what the child failed with, of the same class.
    """
    ours, theirs = socket.socketpair()
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid == 0:
        ours.close()
        _run_child(serve, theirs)
    theirs.close()
    with ours:
        record = _receive(ours)
        if record == _READY:
            # If the child died meanwhile, the mount died after it was ready.
            with suppress(OSError):
                ours.sendall(_HEARD)
            return True
    os.waitpid(pid, 0)
    if not record:
        return False
    raise error_of(json.loads(record))


def _run_child(serve: Callable[[Launch], None], parent: socket.socket) -> NoReturn:
    """Serve, and leave without the parent's half of the Python stack."""
    code = 1
    try:
        serve(_ChildLaunch(parent))
        code = 0
    except OvfuseError as error:
        code = error.exit_code
        _send_error(parent, error)
    except Exception as error:  # noqa: BLE001  it is told to the parent
        _send_error(parent, MountFailedError(f"unexpected: {describe(error)}"))
    except KeyboardInterrupt:
        code = 130
    finally:
        with suppress(OSError, ValueError):
            sys.stderr.flush()
        os._exit(code)


def _forget_terminal() -> None:
    nothing = os.open(os.devnull, os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(nothing, descriptor)
    os.close(nothing)


def _send_error(parent: socket.socket, error: OvfuseError) -> None:
    with suppress(OSError):  # after `ready`, nobody listens
        parent.sendall(json.dumps(describe_error(error)).encode("ascii") + b"\n")


def describe_error(error: OvfuseError) -> dict[str, Any]:
    """Return what `error_of` needs in another process."""
    return {
        "error": type(error).__name__,
        "message": error.message,
        "hint": error.hint,
    }


def _receive(child: socket.socket) -> bytes:
    """Return the child's one line, or nothing if it died."""
    record = bytearray()
    while not record.endswith(b"\n") and len(record) < _MAX_RECORD_SIZE:
        try:
            piece = child.recv(_MAX_RECORD_SIZE)
        except ConnectionResetError:
            piece = b""
        if not piece:
            return b""
        record += piece
    return bytes(record)


def error_of(fields: dict[str, Any]) -> OvfuseError:
    """Return the error that another process described, of its class."""
    kind = getattr(errors, fields["error"], MountFailedError)
    error: OvfuseError = kind(fields["message"], hint=fields["hint"])
    return error
