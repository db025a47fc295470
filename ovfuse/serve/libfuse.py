"""The engine over libfuse 3, by mfusepy: plain, portable, path-based.

Imported only when a mount is made. Threading: libfuse calls the operations from
threads of its own, so that a slow unlock holds up no other request. These are
not Python's threads: what one keeps in `threading.local` is gone with the call.
"""

import ctypes
import errno
import functools
import itertools
import os
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar, cast

import mfusepy

from ovfuse.errors import IsADirectoryNodeError, MountFailedError
from ovfuse.quote import quoted
from ovfuse.serve.attributes import Access, attributes_of, filesystem_attributes
from ovfuse.serve.engine import Setup, mount_words
from ovfuse.serve.processes import Caller
from ovfuse.serve.stderr import HeldBackStderr

if TYPE_CHECKING:
    from ovfuse.view.contract import Handle, Node

__all__ = ["LibfuseEngine"]

_F = TypeVar("_F", bound=Callable[..., Any])
_Entry = tuple[str, dict[str, int], int]

_UTF8: Final = ("utf-8", "surrogateescape")
_ENDED_BY_SIGNAL: Final = 8
_OPTIONS: Final = {
    "use_ino": True,
    # Pages stay in the kernel's cache from one open to the next.
    "kernel_cache": True,
    # What is served never changes, but a model's directory may when it is unlocked.
    "attr_timeout": 300,
    "entry_timeout": 300,
    # A name that is missing today may be a model of tomorrow.
    "negative_timeout": 0,
}


class _OpenFile(NamedTuple):
    node: "Node"
    path: bytes
    handle: "Handle"


def _answering(method: _F) -> _F:
    """Let a method raise what it likes; mfusepy gets an OSError with the errno."""

    @functools.wraps(method)
    def answer(self: "_Operations", path: str, *args: object) -> object:
        try:
            return method(self, path, *args)
        except Exception as error:
            operation = method.__name__.removeprefix("_")
            raw = path.encode(*_UTF8)
            code = self.failures.record(operation, raw, error, _caller())
            raise OSError(code, os.strerror(code)) from error

    return cast("_F", answer)


class _Operations(mfusepy.Operations):
    """What libfuse asks, in terms of the view."""

    use_ns = True
    # Reads come with a handle; libfuse need not put a path together for each.
    flag_nopath = True
    flag_nullpath_ok = True

    def __init__(
        self, setup: Setup, stopping: threading.Event, mounted: Callable[[], object]
    ) -> None:
        self.failures = setup.failures
        self._audit = setup.audit
        self.open_files: dict[int, _OpenFile] = {}
        self._stopping = stopping
        self._view = setup.view
        self._access = Access.of(setup.options)
        self._mounted = mounted
        self._listings: dict[int, list[_Entry]] = {}
        self._numbers = itertools.count(1)

    def init(self, _path: str) -> None:
        self._mounted()

    def getattr(self, path: str, fh: int | None = None) -> dict[str, int]:
        node = self._lookup(path) if fh is None else self.open_files[fh].node
        return attributes_of(node, self._access).as_stat()

    @_answering
    def _lookup(self, path: str) -> "Node":
        return self._resolve(path)[-1]

    @_answering
    def opendir(self, path: str) -> int:
        nodes = self._resolve(path)
        children = self._view.children(nodes[-1])
        listing = [self._entry(".", nodes[-1]), self._entry("..", nodes[-2:][0])]
        listing += [self._entry(name.decode(*_UTF8), node) for name, node in children]
        number = next(self._numbers)
        self._listings[number] = listing
        return number

    def readdir(self, _path: str | None, fh: int) -> list[_Entry]:
        return self._listings[fh]

    def releasedir(self, _path: str | None, fh: int) -> int:
        del self._listings[fh]
        return 0

    def open(self, path: str, flags: int) -> int:
        if flags & os.O_ACCMODE != os.O_RDONLY:  # the mount is `ro`: a second fence
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        return self._open(path)

    @_answering
    def _open(self, path: str) -> int:
        node = self._resolve(path)[-1]
        if node.is_directory:
            raise IsADirectoryNodeError("it is a directory")
        number = next(self._numbers)
        handle = self._view.open(node)
        self._audit.opened(_caller(), handle.sealing)
        self.open_files[number] = _OpenFile(node, path.encode(*_UTF8), handle)
        return number

    def read(self, *_: object) -> bytes:
        raise NotImplementedError  # there so that mfusepy registers _Fuse.read

    def release(self, _path: str | None, fh: int) -> int:
        self.open_files.pop(fh).handle.close()
        return 0

    @_answering
    def statfs(self, _path: str) -> dict[str, int]:
        if self._stopping.is_set():
            mfusepy.fuse_exit()  # only works in a thread of libfuse's
        return filesystem_attributes(self._view.totals()).as_statvfs()

    def _resolve(self, path: str) -> list["Node"]:
        """Return the nodes from the root to `path`."""
        nodes = [self._view.root]
        for name in filter(None, path.encode(*_UTF8).split(b"/")):
            nodes.append(self._view.lookup(nodes[-1], name))
        return nodes

    def _entry(self, name: str, node: "Node") -> _Entry:
        mode = attributes_of(node, self._access).mode
        return name, {"st_mode": mode, "st_ino": node.number}, 0


def _caller() -> Caller:
    """Return who asks, in a thread of libfuse's."""
    uid, gid, pid = mfusepy.fuse_get_context()
    return Caller(uid, gid, pid)


class _Fuse(mfusepy.FUSE):
    """mfusepy with a read that has no copy: straight into libfuse's reply."""

    def read(self, _path: Any, buf: Any, size: int, offset: int, fip: Any) -> int:  # noqa: ANN401  ctypes
        operations: _Operations = self.operations
        file = operations.open_files[fip.contents.fh]
        reply = (ctypes.c_ubyte * size).from_address(ctypes.addressof(buf.contents))
        try:
            return file.handle.read_into(offset, memoryview(reply).cast("B"))
        except Exception as error:  # noqa: BLE001  whatever it is, it is answered
            return -operations.failures.record("read", file.path, error)


class LibfuseEngine:
    """Serves the view of a Setup through libfuse's high-level interface."""

    def __init__(self, setup: Setup) -> None:
        self._setup = setup
        self._stopping = threading.Event()

    def run(self) -> None:
        """Mount and serve; see Engine."""
        stderr = HeldBackStderr()
        operations = _Operations(self._setup, self._stopping, stderr.release)
        mountpoint = os.fsencode(self._setup.mountpoint).decode(*_UTF8)
        words = mount_words(self._setup)
        try:
            _Fuse(operations, mountpoint, foreground=True, **_OPTIONS, **words)
        except RuntimeError as error:
            if error.args != (_ENDED_BY_SIGNAL,):
                said = stderr.release().strip().splitlines()[-1:]
                reason = "".join(f": it says {quoted(line)}" for line in said)
                raise MountFailedError(f"FUSE refused{reason}") from error
        finally:
            stderr.release()
            for file in operations.open_files.values():
                file.handle.close()  # of a mount that was detached lazily

    def take_back(self, *, force: bool) -> bool:  # noqa: ARG002
        """Refuse: it could not go on without its keys."""
        raise MountFailedError("engine=libfuse cannot be locked")

    def stop(self) -> None:
        """Make libfuse's loop end, which only a thread of its own can; see Engine."""
        self._stopping.set()
        with suppress(OSError):  # the kernel never answers this by itself
            os.statvfs(self._setup.mountpoint)
