"""What calls the view when something below its cipherdir changes."""

import errno
import os
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from watchdog.observers.inotify_c import InotifyFD

from ovfuse.view import watch
from ovfuse.view.watch import Watch
from tests.support.waiting import wait_until

READING = 0x01 | 0x10 | 0x20
WRITING = 0x02
"""Masks of inotify(7): accessed, closed after reading, opened; written to."""


class Work:
    """Counts its calls."""

    def __init__(self) -> None:
        self.calls = 0
        self.error: Exception | None = None

    def __call__(self) -> None:
        self.calls += 1
        if self.error is not None:
            raise self.error

    def wait_for_more(self) -> None:
        before = self.calls
        wait_until(lambda: self.calls > before)


@pytest.fixture
def top(tmp_path: Path) -> Path:
    (tmp_path / "top/a/b").mkdir(parents=True)
    (tmp_path / "elsewhere/c").mkdir(parents=True)
    (tmp_path / "top/link").symlink_to(tmp_path / "elsewhere")
    return tmp_path / "top"


@contextmanager
def watching(top: Path, work: Work) -> Iterator[Watch]:
    fd = os.open(top, os.O_RDONLY)
    try:
        with Watch(fd, work) as started:
            wait_until(lambda: work.calls)
            yield started
        assert threading.active_count() == 1
    finally:
        os.close(fd)


def watched() -> dict[int, int]:
    """Return inode number and mask of what this process watches, but for /proc."""
    found = {}
    for path in Path("/proc/self/fdinfo").iterdir():
        try:
            text = path.read_text()
        except FileNotFoundError:
            continue
        for inode, mask in re.findall(r"inotify .*ino:(\w+) .*mask:(\w+)", text):
            found[int(inode, 16)] = int(mask, 16)
    found.pop(Path("/proc").stat().st_ino, None)
    return found


def change(path: Path) -> None:
    path.write_text("x")


def test_every_kind_of_change_is_noticed(top: Path) -> None:
    work = Work()
    with watching(top, work):
        for step in (
            lambda: change(top / "a/b/new"),
            lambda: change(top / "a/b/new"),
            lambda: (top / "a/b/new").rename(top / "moved"),
            (top / "moved").unlink,
            lambda: (top / "d/e/f").mkdir(parents=True),
            lambda: change(top / "d/e/f/new"),
            lambda: (top / "d").rename(top / "a/d"),
            lambda: change(top / "a/d/e/f/new"),
        ):
            wait_for_effect(work, step)
        other = top.rename(top.with_name("other"))
        wait_for_effect(work, lambda: change(other / "a/d/e/f/new"))


def wait_for_effect(work: Work, step: Callable[[], object]) -> None:
    before = work.calls
    step()
    wait_until(lambda: work.calls > before)


def test_directories_alone_are_watched_and_not_for_reading(top: Path) -> None:
    work = Work()
    with watching(top, work):
        (top / "d").mkdir()
        wait_until(lambda: (top / "d").stat().st_ino in watched())
        found = watched()

    directories = [top, top / "a", top / "a/b", top / "d"]
    assert sorted(found) == sorted(path.stat().st_ino for path in directories)
    for mask in found.values():
        assert not mask & (READING | WRITING)


def test_error_is_told_and_does_not_end_it(
    top: Path, caplog: pytest.LogCaptureFixture
) -> None:
    work = Work()
    work.error = ValueError("a secret")
    with watching(top, work):
        change(top / "new")
        work.wait_for_more()

    lines = {record.getMessage() for record in caplog.records}
    (line,) = lines
    assert line.startswith("cannot follow a change: ValueError at test_watch.py:")


def test_it_can_be_woken(top: Path) -> None:
    work = Work()
    with watching(top, work) as started:
        before = work.calls
        started.wake()
        wait_until(lambda: work.calls > before)


def refuse(*_: object) -> Any:
    raise OSError(errno.EMFILE, "Too many open files")


@pytest.mark.parametrize("what", ["no instance", "no watch", "no more watches"])
def test_without_room_it_looks_again_and_again(
    top: Path,
    what: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(watch, "_POLL_SECONDS", 0.01)
    monkeypatch.setattr(watch, "_POLL_REST", 0)
    add = InotifyFD.add_callback

    def refuse_some(self: InotifyFD, path: bytes, *rest: Any) -> Any:
        if what == "no watch" or not path.endswith(b"/."):
            raise OSError(errno.ENOSPC, "No space left on device")
        return add(self, path, *rest)

    if what == "no instance":
        monkeypatch.setattr(InotifyFD, "_create_inotify_fd", refuse)
    else:
        monkeypatch.setattr(InotifyFD, "add_callback", refuse_some)
    work = Work()
    with watching(top, work):
        for _ in range(3):
            work.wait_for_more()

    (line,) = [record.getMessage() for record in caplog.records]
    assert line.startswith("inotify cannot watch the cipherdir (")
