"""The engine's threads: each takes a request, answers it, takes the next.

As many are at work as there are requests: whoever takes one while nobody else waits
starts another thread, so that a slow request holds up no other. Threading: `run` is
called once, `stop` by another thread.
"""

import errno
import logging
import os
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from ovfuse.errors import MountFailedError, OvfuseError, describe
from ovfuse.serve.kernel import wire
from ovfuse.serve.kernel.operations import (
    REPLY_SIZE,
    REQUEST_SIZE,
    Operations,
    Request,
)
from ovfuse.serve.kernel.session import connect
from ovfuse.serve.kernel.wire import Opcode
from ovfuse.serve.mounts import find_mount
from ovfuse.serve.unmount import detach_mount

if TYPE_CHECKING:
    from ovfuse.serve.engine import Setup

__all__ = ["KernelEngine"]

_log = logging.getLogger(__name__)

_THREADS_MAX: Final = 128
"""So many may wait for a model to unlock before others have to."""
_WAITING_MAX: Final = 3
_AGAIN: Final = frozenset({errno.EINTR, errno.EAGAIN, errno.ENOENT})
"""A request was withdrawn before it was read: there will be another."""


class KernelEngine:
    """Serves the view of a Setup; see `ovfuse.serve.engine.Engine`."""

    def __init__(self, setup: "Setup") -> None:
        self._setup = setup
        self._device: int | None = None

    def run(self) -> None:
        """Mount and serve; see Engine."""
        fd = connect(self._setup)
        mount = find_mount(self._setup.mountpoint)
        self._device = mount.device if mount else None
        operations = Operations(self._setup)
        try:
            Workers(fd, operations).run()
        finally:
            os.close(fd)
            operations.files.close()

    def stop(self) -> None:
        """Take the mount out of the tree: the kernel then ends the connection."""
        mount = find_mount(self._setup.mountpoint)
        if mount is not None and mount.device == self._device:
            with suppress(OvfuseError):
                detach_mount(self._setup.mountpoint)


class Workers:
    """The threads that serve one connection.

    Args:
        fd: of the connection; requests are read from it and replies written to it.
        operations: answers them.
    """

    def __init__(self, fd: int, operations: Operations) -> None:
        self._fd = fd
        self._operations = operations
        self._lock = threading.Lock()
        self._threads = self._waiting = 0
        self._ended = threading.Event()
        self._at_work: set[int] = set()

    def run(self) -> None:
        """Serve until the kernel ends the connection.

        Raises:
            MountFailedError: the connection broke off.
        """
        self._start()
        self._ended.wait()
        if self._error is not None:
            raise MountFailedError(f"the connection broke off: {self._error}")

    _error: str | None = None

    def _start(self) -> None:
        with self._lock:
            self._threads += 1
            self._waiting += 1
        threading.Thread(target=self._work, name="fuse", daemon=True).start()

    def _work(self) -> None:
        request = memoryview(bytearray(REQUEST_SIZE))
        reply = memoryview(bytearray(REPLY_SIZE))
        try:
            while not self._ended.is_set():
                size = self._read(request)
                if self._taken():
                    self._start()
                if size:
                    self._answer(request[:size], reply)
                if not self._wait():
                    return
        except OSError as error:
            if error.errno != errno.ENODEV:  # that is how it ends
                self._error = error.strerror
            self._ended.set()

    def _read(self, request: memoryview) -> int:
        try:
            return os.readv(self._fd, [request])
        except OSError as error:
            if error.errno in _AGAIN:
                return 0
            raise

    def _taken(self) -> bool:
        """Note that a thread has a request; tell whether nobody waits for the next."""
        with self._lock:
            self._waiting -= 1
            return self._waiting == 0 and self._threads < _THREADS_MAX

    def _wait(self) -> bool:
        """Note that a thread is free again; tell whether it should wait for more."""
        with self._lock:
            if self._waiting >= _WAITING_MAX:
                self._threads -= 1
                return False
            self._waiting += 1
            return True

    def _answer(self, data: memoryview, reply: memoryview) -> None:
        try:
            request = Request.parse(data)
        except ValueError as error:
            _log.error("a malformed request of the kernel: %s", error)
            return
        if request.opcode == Opcode.INTERRUPT:
            self._interrupt(request)
            return
        self._at_work.add(request.unique)
        size = self._operations.answer(request, reply)
        wanted = self._is_mine(request.unique)
        if not wanted or (size and not self._write(reply[:size])):
            self._operations.take_back(request, reply[:size])

    def _interrupt(self, request: Request) -> None:
        """Answer EINTR for a request that is at work; its own answer is dropped."""
        (unique,) = wire.INTERRUPT_IN.unpack_from(request.body)
        if self._is_mine(unique):
            size = wire.OUT_HEADER.size
            self._write(memoryview(wire.OUT_HEADER.pack(size, -errno.EINTR, unique)))

    def _is_mine(self, unique: int) -> bool:
        """Take the right to answer a request, which one thread alone has."""
        try:
            self._at_work.remove(unique)
        except KeyError:
            return False
        return True

    def _write(self, reply: memoryview) -> bool:
        """Write a reply; tell whether the kernel waited for it."""
        try:
            os.write(self._fd, reply)
        except OSError as error:
            if error.errno == errno.ENODEV:
                raise
            if error.errno != errno.ENOENT:
                _log.error("a reply was refused: %s", describe(error))
            return False
        return True
