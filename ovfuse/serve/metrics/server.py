"""HTTP for one reader, Prometheus: on a socket file or on the loopback interface.

Whoever can connect gets the same answer to whatever is asked. A few at a time, and none
for long. Threading: `serve` is called in the main thread.
"""

import grp
import ipaddress
import os
import signal
import socket
import socketserver
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

from prometheus_client import CollectorRegistry, MetricsHandler

from ovfuse.errors import MountFailedError, UsageError
from ovfuse.quote import quoted

__all__ = ["Listen", "serve"]

_CLIENTS: Final = 8
_TIMEOUT_SECONDS: Final = 5.0
_ENDING: Final = (signal.SIGTERM, signal.SIGINT)
_UNIX: Final = "unix:"
_PORTS: Final = 65536


@dataclass(frozen=True, slots=True, kw_only=True)
class Listen:
    """Where to listen: a path, or an address of this machine alone and a port."""

    path: Path | None = None
    host: str = ""
    port: int = 0

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return what `unix:PATH`, `127.0.0.1:PORT` or `[::1]:PORT` means.

        Raises:
            UsageError: it is something else, or others could connect.
        """
        if text.startswith(_UNIX):
            path = Path(text.removeprefix(_UNIX))
            if not path.is_absolute():
                raise UsageError(f"{quoted(text)} lacks an absolute path")
            return cls(path=path)
        host, colon, port = text.rpartition(":")
        try:
            address = ipaddress.ip_address(host.removeprefix("[").removesuffix("]"))
            number = int(port) if port.isascii() and port.isdecimal() else -1
        except ValueError:
            colon = ""
        if not colon or not 0 <= number < _PORTS:
            raise UsageError(
                f"{quoted(text)} is no place to listen at",
                hint="unix:PATH, 127.0.0.1:PORT or [::1]:PORT",
            )
        if not address.is_loopback:
            raise UsageError(
                f"{quoted(text)} is not of this machine alone",
                hint="metrics tell of your models: have a proxy that asks who it is",
            )
        return cls(host=str(address), port=number)


class _Handler(MetricsHandler):
    timeout = _TIMEOUT_SECONDS


class _Server(socketserver.ThreadingMixIn, socketserver.TCPServer):
    """A server on a socket that listens already."""

    daemon_threads = True

    def __init__(self, ours: socket.socket, registry: CollectorRegistry) -> None:
        handler = type("_OfRegistry", (_Handler,), {"registry": registry})
        # Not TCPServer's, which makes a socket: of a family that a unit may not have.
        socketserver.BaseServer.__init__(self, ("", 0), handler)
        self.socket = ours
        self._clients = threading.BoundedSemaphore(_CLIENTS)

    def process_request(self, request: Any, client_address: Any) -> None:  # noqa: ANN401
        if self._clients.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:  # noqa: ANN401
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._clients.release()

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ANN401
        """Say nothing: it went away, or took too long."""


def serve(
    listen: Listen,
    registry: CollectorRegistry,
    *,
    mode: int,
    group: str | None,
    ready: Callable[[str], None],
) -> bool:
    """Answer until SIGTERM or SIGINT; tell whether it was SIGTERM.

    Args:
        listen: where.
        registry: makes the answers.
        mode: of a socket file.
        group: that it belongs to; None: this process's.
        ready: called with where it listens, when it does.

    Raises:
        UsageError: there is no such group.
        MountFailedError: it cannot listen there.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _ENDING)
    try:
        with _listening(listen, mode, group) as ours:
            server = _Server(ours, registry)
            thread = threading.Thread(target=server.serve_forever)
            thread.start()
            ready(_shown(ours))
            number = signal.sigwait(_ENDING)
            server.shutdown()
            thread.join()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    return number == signal.SIGTERM


@contextmanager
def _listening(listen: Listen, mode: int, group: str | None) -> Iterator[socket.socket]:
    try:
        if listen.path is None:
            family = socket.AF_INET6 if ":" in listen.host else socket.AF_INET
            ours = socket.socket(family, socket.SOCK_STREAM)
            ours.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            ours.bind((listen.host, listen.port))
        else:
            ours = _bound_file(listen.path, mode, _group(group))
        ours.listen(_CLIENTS)
    except OSError as error:
        where = listen.path or listen.host
        reason = error.strerror or error  # "AF_UNIX path too long" has none
        raise MountFailedError(f"cannot listen at {quoted(where)}: {reason}") from None
    try:
        yield ours
    finally:
        ours.close()
        if listen.path is not None:
            with suppress(OSError):
                listen.path.unlink()


def _bound_file(path: Path, mode: int, group: int) -> socket.socket:
    """Make a socket file; nobody can connect before it has its owner and mode.

    Raises:
        OSError: something is in the way that is no socket left by a dead process.
    """
    _remove_dead(path)
    ours = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    mask = os.umask(0o177)
    try:
        ours.bind(os.fspath(path))
    finally:
        os.umask(mask)
    if group >= 0:  # not even asked for where system calls are filtered
        os.chown(path, -1, group, follow_symlinks=False)
    path.chmod(mode)
    return ours


def _remove_dead(path: Path) -> None:
    with suppress(FileNotFoundError):
        status = path.lstat()
        if not stat.S_ISSOCK(status.st_mode) or status.st_uid != os.geteuid():
            raise FileExistsError(0, "something else is there")
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.settimeout(_TIMEOUT_SECONDS)
            with suppress(ConnectionRefusedError):
                probe.connect(os.fspath(path))
                raise FileExistsError(0, "another process listens there")
        path.unlink()


def _group(name: str | None) -> int:
    if name is None:
        return -1
    try:
        return int(name) if name.isdecimal() else grp.getgrnam(name).gr_gid
    except (KeyError, ValueError):
        raise UsageError(f"no such group: {quoted(name)}") from None


def _shown(ours: socket.socket) -> str:
    name = ours.getsockname()
    if isinstance(name, str):
        return f"{_UNIX}{name}"
    host, port, *_ = name
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
