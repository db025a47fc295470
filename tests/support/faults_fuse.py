"""A directory served by FUSE, read-only, with faults: `faulty`.

    python -m tests.support.faults_fuse SOURCE MOUNTPOINT RULES

is what it starts. RULES is a JSON file with a list of rules and read at each call, so
that faults come and go while the directory is in use. Nothing is cached by the
kernel: a read of few bytes is the reader's to go on from.
"""

import dataclasses
import fnmatch
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mfusepy import FUSE, Operations

from tests.support.mounting import is_mounted
from tests.support.waiting import wait_until

__all__ = ["FaultyDirectory", "Rule", "faulty"]


@dataclass(frozen=True, kw_only=True)
class Rule:
    """What goes wrong.

    Attributes:
        path: a pattern of paths in the directory, as of fnmatch.
        call: `getattr`, `readdir`, `open` or `read`.
        error: the errno that the call ends with, or 0.
        start: of a read, the offset from which on it fails.
        shorter: the most bytes that a read gives, or 0 for all.
        ends: whether reads from `start` on find the end of the file instead.
    """

    path: str
    call: str = "read"
    error: int = 0
    start: int = 0
    shorter: int = 0
    ends: bool = False

    def holds_for(self, call: str, path: str) -> bool:
        return call == self.call and fnmatch.fnmatchcase(path, self.path)


class FaultyDirectory:
    """The parent's side.

    Args:
        path: where it is mounted.
        rules: the file that the server reads.
    """

    def __init__(self, path: Path, rules: Path) -> None:
        self.path = path
        self._rules = rules
        self.set()

    def set(self, *rules: Rule) -> None:
        """Let these rules hold from now on, and no others."""
        new = self._rules.with_suffix(".new")
        new.write_text(json.dumps([dataclasses.asdict(rule) for rule in rules]))
        new.replace(self._rules)


@contextmanager
def faulty(source: Path, scratch: Path) -> Iterator[FaultyDirectory]:
    """Serve a directory; `scratch` is one for the mountpoint and the rules."""
    mountpoint, rules = scratch / "faulty", scratch / "rules.json"
    mountpoint.mkdir()
    made = FaultyDirectory(mountpoint, rules)
    arguments = map(os.fspath, (source, mountpoint, rules))
    server = subprocess.Popen(
        [sys.executable, "-m", "tests.support.faults_fuse", *arguments],
        cwd=Path(__file__).parents[2],
    )
    try:
        wait_until(lambda: is_mounted(mountpoint) or server.poll() is not None)
        assert server.poll() is None
        yield made
    finally:
        if is_mounted(mountpoint):
            as_root = os.geteuid() == 0
            program = ["umount", "-l"] if as_root else ["fusermount3", "-uz"]
            subprocess.run([*program, mountpoint], check=True)
        server.terminate()
        server.wait()


class _Served(Operations):  # type: ignore[misc]  # mfusepy has no types
    """The server's side."""

    use_ns = True

    def __init__(self, source: Path, rules: Path) -> None:
        self._source = os.fspath(source)
        self._rules = rules

    def getattr(self, path: str, fh: int | None = None) -> dict[str, Any]:
        self._rules_for("getattr", path)
        status = os.lstat(self._source + path)
        names = ("st_mode", "st_ino", "st_nlink", "st_uid", "st_gid", "st_size")
        found = {name: getattr(status, name) for name in names}
        for name in ("atime", "mtime", "ctime"):
            found[f"st_{name}"] = getattr(status, f"st_{name}_ns")
        return found

    def readdir(self, path: str, fh: int) -> Iterator[tuple[str, dict[str, int], int]]:
        self._rules_for("readdir", path)
        directory = self._source + path
        for name in (".", "..", *os.listdir(directory)):
            status = Path(directory, name).lstat()
            yield name, {"st_mode": status.st_mode, "st_ino": status.st_ino}, 0

    def open(self, path: str, flags: int) -> int:
        self._rules_for("open", path)
        return os.open(self._source + path, os.O_RDONLY | os.O_CLOEXEC)

    def read(self, path: str, size: int, offset: int, fh: int) -> bytes:
        for rule in self._rules_for("read", path, offset + size):
            if rule.ends:
                size = min(size, max(0, rule.start - offset))
            if rule.shorter:
                size = min(size, rule.shorter)
        return os.pread(fh, size, offset)

    def release(self, path: str, fh: int) -> int:
        os.close(fh)
        return 0

    def _rules_for(self, call: str, path: str, end: int = 1) -> list[Rule]:
        """Return what holds for a call; an error among it is raised."""
        rules = [Rule(**rule) for rule in json.loads(self._rules.read_text())]
        found = [rule for rule in rules if rule.holds_for(call, path.lstrip("/"))]
        for rule in found:
            if rule.error and end > rule.start:
                raise OSError(rule.error, os.strerror(rule.error))
        return found


def main() -> None:
    """Serve until it is unmounted."""
    source, mountpoint, rules = map(Path, sys.argv[1:])
    no_cache = dict.fromkeys(("attr_timeout", "entry_timeout", "negative_timeout"), 0)
    FUSE(
        _Served(source, rules),
        os.fspath(mountpoint),
        foreground=True,
        ro=True,
        use_ino=True,
        direct_io=True,
        nothreads=True,
        **no_cache,
    )


if __name__ == "__main__":
    main()
