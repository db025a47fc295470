"""What programs leave on disk: what they write, as strace sees it, and which files.

A `Trace` holds every call that can put data into a file, with all of the data. What
went to /dev/fuse, into pipes or into memory-only files is left out; to any other
place, a call whose data cannot be seen, such as sendfile, counts as a leak.
"""

import os
import re
import select
import stat
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from tests.support.leaks import PlaintextWindows
from tests.support.waiting import wait_until

__all__ = ["Trace", "changed_files", "is_on_disk"]

_SHOWN_BYTES = 16 << 20

_WITH_DATA = {
    *("write", "pwrite64", "writev", "pwritev", "pwritev2"),
    *("sendto", "sendmsg", "sendmmsg"),
    *("setxattr", "lsetxattr", "fsetxattr"),
}
# The target is the descriptor of this number among the arguments.
_WITHOUT_DATA = {"sendfile": 0, "copy_file_range": 1, "splice": 1, "ioctl": 0}
_QUEUES = {"io_uring_setup", "io_submit"}
_OPENING = {"open", "openat", "openat2"}
_HARDENING = {"prctl", "prlimit64"}
_TRACED = {*_WITH_DATA, *_WITHOUT_DATA, *_QUEUES, *_OPENING, *_HARDENING}
_TRACED |= {"mmap", "fsmount"}

_TEXT = rb"((?:\\x[0-9a-f]{2})*)"
_STRING = re.compile(rb'"' + _TEXT + rb'"')
_DESCRIPTOR = re.compile(rb"\b\d+<" + _TEXT + rb">")
_NUMBER = re.compile(rb"\d+(?=<)")
_NOWHERE = re.compile(
    rb"/dev/(fuse|null)|/memfd:.*|pipe:\[\d+\]|anon_inode:.*", re.DOTALL
)
_MEMORY_FILESYSTEMS = {"tmpfs", "ramfs", "devtmpfs"}


@dataclass(frozen=True, kw_only=True)
class _Call:
    """One line of strace: a system call and what came of it."""

    thread: str
    name: str
    arguments: bytes
    result: bytes

    @property
    def failed(self) -> bool:
        return self.result.startswith(b"-1 ")

    @property
    def size(self) -> int:
        """What it returned, if that is a number."""
        return int(self.result) if self.result.isdigit() else 0

    def target(self) -> bytes:
        """The path behind the descriptor that data is put into."""
        paths = _DESCRIPTOR.findall(self.arguments)
        number = _WITHOUT_DATA.get(self.name, 0)
        return _decode(paths[number]) if number < len(paths) else b"?"

    def data(self) -> bytes:
        """All strings of its arguments, in a row."""
        return b"".join(map(_decode, _STRING.findall(self.arguments)))


class Trace:
    """The traces of all programs that were started with `prefix` before them.

    Args:
        directory: made; for strace's output, a file per thread.
    """

    def __init__(self, directory: Path) -> None:
        directory.mkdir()
        self.directory = directory

    @property
    def prefix(self) -> tuple[str, ...]:
        """What to write in front of a command; it keeps the process id."""
        return (
            # As a grandchild, following every child, each thread to its own file.
            *("strace", "-D", "-f", "-ff", "--seccomp-bpf", "-q"),
            # With paths of descriptors, everything in hex, and whole.
            *("-y", "-xx", "-a1", f"-s{_SHOWN_BYTES}"),
            *("-e", "signal=none", "-e", ",".join(f"?{name}" for name in _TRACED)),
            *("-o", os.fspath(self.directory / "trace"), "--"),
        )

    def leaks(self, windows: PlaintextWindows) -> list[str]:
        """Say what was written of the plaintext, and what cannot be known."""
        found = []
        streams: defaultdict[tuple[str, bytes], bytearray] = defaultdict(bytearray)
        writable = {
            _path_in(call.result)
            for call in self._calls()
            if call.name in _OPENING and b"O_RDWR" in call.arguments
        }
        detached = self._detached_files()
        for call in self._calls():
            if call.failed:
                continue
            target = call.target()
            if target in detached:
                continue
            if call.name in _WITH_DATA and not _NOWHERE.fullmatch(target):
                data = call.data()
                streams[call.thread, target] += data
                unseen = len(data) < call.size
            else:
                unseen = call.name in _QUEUES or _moves_data(call)
                unseen |= _is_shared_mapping(call, writable)
            if unseen:
                found.append(f"{os.fsdecode(target)}: {call.name} shows no data")
        for (_, target), stream in streams.items():
            if leak := windows.found_in(stream):
                found.append(f"{os.fsdecode(target)} was given {leak.what}")
        return found

    def _detached_files(self) -> set[bytes]:
        """Return the files without a name on filesystems that are mounted nowhere.

        ovfuse makes no other than tmpfs: `serve.resident.memory_filesystem`.
        """
        opened = [c for c in self._calls() if not c.failed and c.name in _OPENING]
        mounts = {
            number[0]
            for call in self._calls()
            if call.name == "fsmount" and (number := _NUMBER.match(call.result))
        }
        return {
            _path_in(call.result)
            for call in opened
            if b"O_TMPFILE" in call.arguments
            and (number := _NUMBER.match(call.arguments)) is not None
            and number[0] in mounts
            and call.target() == b"/"
        }

    def has(self, thread: int, line: str) -> bool:
        """Say whether a thread made this call with this result."""
        return any(
            line == f"{call.name}({call.arguments.decode()}) = {call.result.decode()}"
            for call in self._calls()
            if call.thread == f"trace.{thread}" and call.name in _HARDENING
        )

    def written(self) -> dict[str, bytes]:
        """Return what was visibly put where, /dev/fuse and pipes included."""
        written: defaultdict[str, bytearray] = defaultdict(bytearray)
        for call in self._calls():
            if call.name in _WITH_DATA and not call.failed:
                written[os.fsdecode(call.target())] += call.data()
        return {target: bytes(data) for target, data in written.items()}

    def _calls(self) -> Iterator[_Call]:
        wait_until(lambda: all(map(_is_complete, self.directory.iterdir())))
        for path in sorted(self.directory.iterdir()):
            with path.open("rb") as lines:
                for line in lines:
                    call, _, result = line.rstrip().rpartition(b") = ")
                    if not call:  # it ended while it was in this call
                        call, result = line, b"?"
                    name, parenthesis, arguments = call.partition(b"(")
                    if parenthesis and name.decode() in _TRACED:
                        yield _Call(
                            thread=path.name,
                            name=name.decode(),
                            arguments=arguments,
                            result=result,
                        )


def _decode(text: bytes) -> bytes:
    return bytes.fromhex(text.replace(b"\\x", b"").decode())


def _path_in(result: bytes) -> bytes:
    path = _DESCRIPTOR.search(result)
    return _decode(path[1]) if path else b"?"


def _is_shared_mapping(call: _Call, writable: set[bytes]) -> bool:
    """Say whether it maps a file so that it can be changed, now or after mprotect."""
    if call.name != "mmap" or b"MAP_SHARED" not in call.arguments:
        return False
    target = call.target()
    may_write = b"PROT_WRITE" in call.arguments or target in writable
    return may_write and target != b"?" and not _NOWHERE.fullmatch(target)


def _moves_data(call: _Call) -> bool:
    """Say whether it moves data into a file inside the kernel."""
    if call.name == "ioctl" and b"FICLONE" not in call.arguments:
        return False
    return call.name in _WITHOUT_DATA and not _NOWHERE.fullmatch(call.target())


def _is_complete(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 256))
        return file.read().rpartition(b"\n+++ ")[2].endswith(b" +++\n")


def changed_files(
    area: Path, since_ns: int, *, but: Iterable[Path], largest: int | None = None
) -> Iterator[Path]:
    """Yield the files below a directory that changed since a moment.

    Args:
        area: the directory.
        since_ns: the moment, in nanoseconds since the epoch.
        but: what is left out, with all below it; and so is what is mounted there.
        largest: larger ones are left out, if given.
    """
    skipped = set(map(os.fspath, but))
    waiting = [os.path.realpath(area)]
    with _MountList() as mounts:
        while waiting:
            # Others remove, close and mount what is theirs meanwhile.
            with suppress(OSError), os.scandir(waiting.pop()) as entries:
                for entry in entries:
                    if entry.path in skipped:
                        continue
                    if entry.is_dir(follow_symlinks=False):
                        if entry.path not in mounts:
                            waiting.append(entry.path)
                    elif _is_changed(entry, since_ns, largest):
                        yield Path(entry.path)


def _is_changed(entry: os.DirEntry[str], since_ns: int, largest: int | None) -> bool:
    try:
        status = entry.stat(follow_symlinks=False)
    except FileNotFoundError:
        return False
    if largest is not None and status.st_size > largest:
        return False
    return stat.S_ISREG(status.st_mode) and status.st_ctime_ns >= since_ns


class _MountList:
    """The kernel's list as it is now; asking a mount itself may hang if it is dead."""

    def __enter__(self) -> Self:
        self._file = Path("/proc/self/mountinfo").open("rb", buffering=0)
        self._lines = self._file.read()
        self._changes = select.poll()
        self._changes.register(self._file, select.POLLPRI)
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def __contains__(self, path: str) -> bool:
        if self._changes.poll(0):
            self._file.seek(0)
            self._lines = self._file.read()
        return b" %b " % os.fsencode(path) in self._lines


def is_on_disk(path: Path) -> bool:
    """Say whether a directory's filesystem keeps its files elsewhere than in memory."""
    device = path.stat().st_dev
    wanted = f"{os.major(device)}:{os.minor(device)}".encode()
    lines = Path("/proc/self/mountinfo").read_bytes().splitlines()
    types = {
        line.partition(b" - ")[2].split()[0].decode()
        for line in lines
        if line.split()[2] == wanted
    }
    return not types & _MEMORY_FILESYSTEMS
