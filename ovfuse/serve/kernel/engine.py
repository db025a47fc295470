"""The engine's threads: each takes a request, answers it, takes the next.

A few are enough while requests are quick. Where all have been at work on slow ones for
a moment, another is started, so that these hold up no other. Threading: `run` is called
once, `stop` by another thread.
"""

import errno
import logging
import mmap
import os
import struct
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from ovfuse.errors import MountFailedError, OvfuseError, describe
from ovfuse.memory import allocate, keep_present
from ovfuse.serve.kernel import wire
from ovfuse.serve.kernel.notifier import Notifier
from ovfuse.serve.kernel.operations import REPLY_SIZE, REQUEST_SIZE, Operations, Request
from ovfuse.serve.kernel.session import connect
from ovfuse.serve.kernel.wire import InitFlag, Opcode
from ovfuse.serve.mounts import find_mount
from ovfuse.serve.resident import start_resident_files
from ovfuse.serve.survival.ledger import Slot, take_over_ledger
from ovfuse.serve.unmount import detach_mount

if TYPE_CHECKING:
    from ovfuse.mountinfo import Mount
    from ovfuse.serve.engine import Setup

__all__ = ["KernelEngine"]

_log = logging.getLogger(__name__)

_THREADS: Final = 4
_THREADS_MAX: Final = 128
"""So many may wait for a model to unlock before others have to."""
_SLOW_SECONDS: Final = 0.02
_AGAIN: Final = frozenset({errno.EINTR, errno.EAGAIN, errno.ENOENT})
"""A request was withdrawn before it was read: there will be another."""


class KernelEngine:
    """Serves the view of a Setup; see `ovfuse.serve.engine.Engine`."""

    def __init__(self, setup: "Setup") -> None:
        self._setup = setup
        self._mount: Mount | None = None
        self._parts: tuple[Operations, Notifier] | None = None

    def run(self) -> None:
        """Mount and serve; see Engine."""
        connection = connect(self._setup)
        found = find_mount(self._setup.mountpoint)  # or, once detached, another one
        is_ours = found is not None and self._setup.device in {None, found.device}
        self._mount = found if is_ours and not self._setup.options.premounted else None
        ledger = take_over_ledger(self._setup.keeping)
        has_passthrough = InitFlag.PASSTHROUGH in connection.flags
        resident = start_resident_files(
            self._setup, connection.fd, has_passthrough=has_passthrough
        )
        operations = Operations(self._setup, ledger, resident)
        operations.nodes.restore()
        operations.files.restore(self._setup.view, operations.nodes)
        notifier = Notifier(connection.fd, operations.nodes, operations.files)
        self._parts = operations, notifier
        try:
            with self._setup.view.follow(notifier.tell):
                if self._setup.keeping.is_successor:
                    notifier.take_up(connection.flags, ledger)
                self._setup.goes_on.set()
                if not self._setup.gate.is_open:  # the predecessor may have died first
                    threading.Thread(target=notifier.forget_all, daemon=True).start()
                Workers(connection.fd, operations).run()
        finally:
            # The descriptor stays, until the process ends: a slow thread may have a
            # reply for it yet, and its number must not become another file's.
            operations.files.close()

    def take_back(self, *, force: bool) -> bool:
        """Take back all plaintext; see Engine."""
        if self._parts is None or not self._parts[0].files.lock(force=force):
            return False
        self._setup.gate.close()
        self._parts[1].forget_all()
        return True

    def stop(self) -> None:
        """Take the mount out of the tree: the kernel then ends the connection."""
        if self._mount and find_mount(self._setup.mountpoint) == self._mount:
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
        self._ledger = operations.ledger
        self._lock = threading.Lock()
        self._threads = self._waiting = self._taken = 0
        self._all_at_work = threading.Event()
        self._ended = threading.Event()
        self._error: str | None = None
        self._at_work: dict[int, Request] = {}

    def run(self) -> None:
        """Serve until the kernel ends the connection.

        Raises:
            MountFailedError: the connection broke off.
        """
        for _ in range(_THREADS):
            self._start()
        while not self._ended.is_set():
            self._all_at_work.wait()
            taken = self._taken
            time.sleep(_SLOW_SECONDS)
            stuck = self._all_at_work.is_set() and self._taken == taken
            if stuck and not self._ended.is_set() and self._threads < _THREADS_MAX:
                with suppress(RuntimeError):  # a limit of processes: others wait
                    self._start()
        if self._error is not None:
            raise MountFailedError(f"the connection broke off: {self._error}")

    def _start(self) -> None:
        buffers = request, _ = allocate(REQUEST_SIZE), allocate(REPLY_SIZE)
        # Else a request that is taken while the process is killed fails with EIO: the
        # kernel makes no pages for who dies (fuse_dev_do_read, iov_iter_get_pages2).
        # Whatever waits for a reply fits into one.
        keep_present(request[: mmap.PAGESIZE])
        threading.Thread(target=self._work, args=buffers, daemon=True).start()
        with self._lock:
            self._threads += 1

    def _work(self, request: memoryview, reply: memoryview) -> None:
        slot = self._ledger.slot()
        try:
            while self._wait():
                size = self._read(request)
                self._take()
                if size:
                    self._answer(request[:size], reply, slot)
        except OSError as error:
            if error.errno != errno.ENODEV:  # that is how it ends
                self._error = error.strerror
            self._ended.set()
            self._all_at_work.set()
        self._ledger.give_back(slot)

    def _wait(self) -> bool:
        """Note that a thread waits for a request; tell whether it should."""
        with self._lock:
            if self._waiting >= _THREADS or self._ended.is_set():
                self._threads -= 1
                return False
            self._waiting += 1
            self._all_at_work.clear()
            return True

    def _take(self) -> None:
        """Note that a thread has a request, and whether nobody waits for the next."""
        with self._lock:
            self._taken += 1
            self._waiting -= 1
            if self._waiting == 0:
                self._all_at_work.set()

    def _read(self, request: memoryview) -> int:
        try:
            return os.readv(self._fd, [request])
        except OSError as error:
            if error.errno in _AGAIN:
                return 0
            raise

    def _answer(self, data: memoryview, reply: memoryview, slot: Slot) -> None:
        try:
            request = Request.parse(data, slot)
            if request.opcode == Opcode.INTERRUPT:
                (wanted,) = wire.INTERRUPT_IN.unpack_from(request.body)
                self._interrupt(request.unique, wanted)
                return
        except struct.error:
            _log.error("the kernel sent less than a request")
            return
        comes_again = bool(request.unique & wire.UNIQUE_RESEND)
        unique = request.unique & ~wire.UNIQUE_RESEND
        self._ledger.begin(slot, unique, comes_again=comes_again)
        self._at_work[request.unique] = request
        with self._operations.passing(request) as may_pass:
            size = self._operations.answer(request, reply, may_pass=may_pass)
            wanted = self._is_mine(request.unique)
            if not wanted or (size and not self._write(reply[:size])):
                self._operations.take_back(request)
        slot.end()

    def _interrupt(self, unique: int, wanted: int) -> None:
        """Answer EINTR for a request that is at work; its own answer is dropped.

        Another thread may have read it and not noted it yet: EAGAIN makes the kernel
        say this again, if it still waits for that request.
        """
        found = self._is_mine(wanted)
        answer = (-errno.EINTR, wanted) if found else (-errno.EAGAIN, unique)
        self._write(wire.OUT_HEADER.pack(wire.OUT_HEADER.size, *answer))

    def _is_mine(self, unique: int) -> bool:
        """Take the right to answer a request, which one thread alone has."""
        return self._at_work.pop(unique, None) is not None

    def _write(self, reply: bytes | memoryview) -> bool:
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
