"""The control socket of a mount: one JSON line asks, one JSON line answers.

Served by the daemon, asked by status and unmount. Only the same account and
root get an answer. Threading: one thread accepts, each client has a thread of
its own for a few seconds at most; `answer` is called by all of them.
"""

import fcntl
import hashlib
import json
import logging
import os
import socket
import stat
import struct
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from ovfuse.errors import MountFailedError, MountpointError, OvfuseError
from ovfuse.quote import quoted
from ovfuse.serve.background import describe_error, error_of
from ovfuse.serve.mounts import find_mount

__all__ = [
    "Answer",
    "Command",
    "ControlServer",
    "ask",
    "failure",
    "remove_dead_socket",
    "runtime_directory",
    "socket_directories",
    "socket_path",
]

_log = logging.getLogger(__name__)

_TIMEOUT_SECONDS: Final = 2.0
_OF_UNITS: Final = Path("/run/ovfuse-units")
"""Made by systemd, as systemd/sandboxed.conf says."""
_MAX_REQUEST_SIZE: Final = 256 * 1024
"""Room for paths, of which JSON has six bytes for each that is not ASCII."""
_MAX_ANSWER_SIZE: Final = 64 * 1024 * 1024
_MAX_CLIENTS: Final = 8
_CREDENTIALS: Final = struct.Struct("iII")  # struct ucred: pid, uid, gid


def runtime_directory(uid: int | None = None) -> Path:
    """Return the directory of the sockets of an account, whether it exists or not.

    Args:
        uid: the account; None: this process's, which may set $XDG_RUNTIME_DIR.
    """
    own = uid is None
    uid = os.getuid() if uid is None else uid
    if uid == 0:
        return Path("/run/ovfuse")
    chosen = os.environ.get("XDG_RUNTIME_DIR", "") if own else ""
    if chosen.startswith("/"):
        return Path(chosen) / "ovfuse"
    of_login = Path(f"/run/user/{uid}")
    with suppress(OSError):
        if of_login.lstat().st_uid == uid:
            return of_login / "ovfuse"
    return Path(f"/tmp/ovfuse-{uid}")  # noqa: S108  checked by _open_directory


def socket_directories(user_id: int) -> Iterator[tuple[Path, int]]:
    """Yield where the daemon of an account's mount may listen, and as which account.

    Root's may be a unit with an account of its own, whose directory only root made.
    """
    if user_id == os.getuid():
        yield runtime_directory(), user_id
    yield runtime_directory(user_id), user_id
    if user_id == 0:
        for directory in sorted(_OF_UNITS.glob("*")):
            with suppress(OSError):
                yield directory / "ovfuse", directory.lstat().st_uid


def socket_path(mountpoint: Path, directory: Path) -> Path:
    """Return the socket of the mount at this real path."""
    digest = hashlib.sha256(os.fsencode(mountpoint)).hexdigest()
    return directory / f"{digest[:32]}.sock"


class ControlServer:
    """Answers for a mount as long as the context lasts.

    Args:
        mountpoint: the real path of it.
        answer: makes the answer to `status`; `ready` in it says whether the mount
            has been made.
        commands: what else may be asked for, by name; each is given the request and
            returns the answer, and what to do when that is on its way.
        succeeds: whether another process answered for this mount, which was killed;
            it may be there still, if the kernel does not let it end yet.
    """

    def __init__(
        self,
        mountpoint: Path,
        answer: Callable[[], dict[str, Any]],
        commands: "Mapping[str, Command] | None" = None,
        *,
        succeeds: bool = False,
    ) -> None:
        self._commands = {"status": lambda _: (answer(), None), **(commands or {})}
        self._mountpoint = mountpoint
        self._succeeds = succeeds
        self._path = socket_path(mountpoint, runtime_directory())
        self._number = 0
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._clients = threading.BoundedSemaphore(_MAX_CLIENTS)
        self._thread = threading.Thread(target=self._accept, name="control")

    def __enter__(self) -> Self:
        try:
            with _locked_directory(self._path.parent):
                if self._succeeds:
                    self._path.unlink(missing_ok=True)
                elif not _remove_if_dead(self._path):
                    self._take_over()
                self._bind()
        except OSError as error:
            self._socket.close()
            # "AF_UNIX path too long" comes without a strerror.
            raise MountFailedError(
                f"no control socket in {quoted(self._path.parent)}: "
                f"{error.strerror or error}"
            ) from error
        except MountpointError:
            self._socket.close()
            raise
        self._thread.start()
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        with suppress(OSError), _locked_directory(self._path.parent):
            if self._path.stat().st_ino == self._number:
                self._path.unlink()
        self._socket.shutdown(socket.SHUT_RDWR)  # wakes the thread that accepts
        self._thread.join()
        self._socket.close()

    def _take_over(self) -> None:
        """Remove the socket of a daemon whose mount was detached lazily.

        It goes on serving files that are open. One that is about to mount is
        refused, as is one that has mounted since the mountpoint was checked.
        """
        answer = ask(self._path, os.getuid()) or {}
        if not answer.get("ready") or find_mount(self._mountpoint) is not None:
            raise MountpointError(
                f"another ovfuse is mounting on {quoted(self._mountpoint)}"
            )
        self._path.unlink()

    def _bind(self) -> None:
        mask = os.umask(0o177)
        try:
            self._socket.bind(os.fspath(self._path))
        finally:
            os.umask(mask)
        self._number = self._path.stat().st_ino
        self._socket.listen(_MAX_CLIENTS)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._socket.accept()
            except OSError:
                return  # shut down
            if not self._clients.acquire(blocking=False):
                client.close()
                continue
            thread = threading.Thread(target=self._serve, args=(client,), daemon=True)
            try:
                thread.start()
            except RuntimeError:  # a limit of processes: others wait meanwhile
                self._serve(client)

    def _serve(self, client: socket.socket) -> None:
        try:
            # RecursionError: the JSON has a thousand levels.
            with client, suppress(OSError, ValueError, RecursionError):
                client.settimeout(_TIMEOUT_SECONDS)
                if _peer(client)[1] not in (0, os.getuid()):
                    return
                request = json.loads(_read_line(client, _MAX_REQUEST_SIZE))
                answer, then = self._respond(request)
                try:
                    client.sendall(_line(answer))
                finally:  # also if nobody waits for the answer any more
                    if then is not None:
                        then()
        finally:
            self._clients.release()

    def _respond(self, request: object) -> "Answer":
        name = request.get("command") if isinstance(request, dict) else None
        command = self._commands.get(name) if isinstance(name, str) else None
        if command is None or not isinstance(request, dict):
            return {"error": "unknown command"}, None
        try:
            return command(request)
        except OvfuseError as error:
            return failure(error), None
        except Exception:  # noqa: BLE001  a broken answer must not end the mount
            _log.exception("%s cannot be answered", name)
            return {"error": "internal"}, None


def failure(error: OvfuseError) -> dict[str, Any]:
    """Return the answer that `ask` raises an error for."""
    return {"error": error.message, "failed": describe_error(error)}


Answer = tuple[dict[str, Any], Callable[[], None] | None]
Command = Callable[[dict[str, Any]], Answer]


def ask(
    path: Path,
    uid: int,
    command: str = "status",
    *,
    timeout: float = _TIMEOUT_SECONDS,
    **fields: object,
) -> dict[str, Any] | None:
    """Return the answer of the daemon behind a socket; None if there is none.

    Args:
        path: the socket.
        uid: the account that the daemon must run under.
        command: what to ask.
        timeout: seconds that it may take.
        fields: of the request.

    Raises:
        OvfuseError: the daemon's own, of what it was asked to do.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as daemon:
        daemon.settimeout(timeout)
        try:
            daemon.connect(os.fspath(path))
            pid, owner, _ = _peer(daemon)
            if owner != uid:
                return None
            daemon.sendall(_line({"command": command, **fields}))
            answer = json.loads(_read_line(daemon, _MAX_ANSWER_SIZE))
        except (OSError, ValueError, RecursionError):
            return None
    if isinstance(answer, dict) and isinstance(answer.get("failed"), dict):
        raise error_of(answer["failed"])
    if not isinstance(answer, dict) or "error" in answer:
        return None
    return {**answer, "pid": pid}  # the kernel's word, in our pid namespace


def remove_dead_socket(mountpoint: Path) -> None:
    """Remove what a daemon of this account left there that was killed."""
    directory = runtime_directory()
    with suppress(OSError), _locked_directory(directory):
        _remove_if_dead(socket_path(mountpoint, directory))


def _remove_if_dead(path: Path) -> bool:
    """Return whether nobody listens there, and no socket is there any more."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(_TIMEOUT_SECONDS)
        try:
            probe.connect(os.fspath(path))
        except FileNotFoundError:
            return True
        except ConnectionRefusedError:
            path.unlink()
            return True
        except TimeoutError:
            pass  # it does not answer, but it is there
    return False


def _peer(connection: socket.socket) -> tuple[int, int, int]:
    raw = connection.getsockopt(
        socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size
    )
    pid, uid, gid = _CREDENTIALS.unpack(raw)
    return pid, uid, gid


def _line(message: dict[str, Any]) -> bytes:
    return json.dumps(message).encode("ascii") + b"\n"


def _read_line(connection: socket.socket, limit: int) -> bytes:
    """Return the bytes up to the first line break.

    Raises:
        ValueError: the line is longer than the limit, or is never finished.
    """
    line = bytearray()
    while not line.endswith(b"\n"):
        piece = connection.recv(64 * 1024)
        line += piece
        if not piece or len(line) > limit:
            raise ValueError("no line")
    return bytes(line)


@contextmanager
def _locked_directory(path: Path) -> Iterator[None]:
    """Make the directory if need be, check whose it is, and hold its lock.

    Raises:
        OSError: it is a symlink or no directory, or belongs to somebody else.
    """
    with suppress(FileExistsError):
        path.mkdir(mode=0o700)
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(path, flags)
    try:
        status = os.fstat(descriptor)
        if status.st_uid != os.getuid() or stat.S_IMODE(status.st_mode) & 0o077:
            raise PermissionError(0, "it is not a private directory of this account")
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
