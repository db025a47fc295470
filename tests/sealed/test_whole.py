"""Whole files by several threads: the same bytes, and every check of a whole read."""

import functools
import gc
import hashlib
import json
import threading
import weakref
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from ovfuse.errors import DamagedError
from ovfuse.memory import wipe
from ovfuse.sealed.parallel import run_in_order, run_steps
from ovfuse.sealed.wrapping import Identity
from tests.support.sealed import Publisher, entry_of, opened, pattern, write_files
from tests.vectors import build

STEP_SIZE = 32 * 65536
SIZES = (0, 1, 16383, 16384, 65536, STEP_SIZE - 1, STEP_SIZE, 3 * STEP_SIZE + 70_001)


@pytest.mark.parametrize("workers", [1, 2, 5])
@pytest.mark.parametrize("size", SIZES)
def test_bytes_are_those_that_were_sealed(
    tmp_path: Path, size: int, workers: int
) -> None:
    publisher = Publisher.make()
    data = pattern(size)
    publisher.seal(write_files(tmp_path / "plain", {"f": data}), tmp_path / "sealed")
    target = bytearray(size)
    with opened(tmp_path / "sealed", publisher.identity) as sealing:
        sealing.read_file_into(
            entry_of(sealing, "f"), memoryview(target), workers=workers, check_hash=True
        )

    assert target == data


def test_wipe_zeroes_any_size() -> None:
    for size in (0, 1, STEP_SIZE, STEP_SIZE + 1):
        buffer = bytearray(b"x" * size)
        wipe(memoryview(buffer))
        assert buffer == bytes(size)


def test_every_step_runs_once_and_each_worker_has_its_own() -> None:
    made: list[threading.Thread] = []
    done: list[int] = []

    def make_step() -> object:
        made.append(threading.current_thread())
        return done.append

    run_steps(100, make_step, 4)  # type: ignore[arg-type]  # list.append is one

    assert sorted(done) == list(range(100))
    assert len(made) == len(set(made)) == 4


def test_first_error_ends_it_and_no_thread_is_left() -> None:
    done = []

    def step(number: int) -> None:
        if number == 10:
            raise DamagedError("ten")
        done.append(number)

    before = threading.active_count()
    with pytest.raises(DamagedError, match="ten"):
        run_steps(10_000, lambda: step, 3)

    assert threading.active_count() == before
    assert len(done) < 10_000


def test_ctrl_c_while_threads_are_started(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that run are waited for: they write into the caller's memory."""
    at_work, go_on = threading.Event(), threading.Event()
    done: list[int] = []
    start = threading.Thread.start

    def step(number: int) -> None:
        at_work.set()
        go_on.wait()
        done.append(number)

    def interrupt_second(thread: threading.Thread) -> None:
        if at_work.is_set():
            start(threading.Timer(0.1, go_on.set))
            raise KeyboardInterrupt
        start(thread)
        at_work.wait()

    monkeypatch.setattr(threading.Thread, "start", interrupt_second)
    with pytest.raises(KeyboardInterrupt):
        run_steps(10, lambda: step, 4)

    assert done == [0]


def test_error_keeps_no_memory() -> None:
    class Memory:
        pass

    memory = Memory()
    gone = weakref.ref(memory)

    def make_step(memory: Memory) -> Callable[[int], None]:
        def step(_: int) -> None:
            raise DamagedError(f"at {id(memory)}")

        return step

    gc.disable()
    try:
        with suppress(DamagedError):
            run_steps(3, functools.partial(make_step, memory), 1)
        del memory

        assert gone() is None
    finally:
        gc.enable()


class Recorder:
    """A worker that notes what it is asked for, and fails where it is told."""

    def __init__(self, log: list[tuple[str, int]], fails: tuple[str, int]) -> None:
        self._log = log
        self._fails = fails
        self._prepared = -1

    def prepare(self, number: int) -> tuple["Recorder", int]:
        self._note("prepare", number)
        self._prepared = number
        return self, number

    def finish(self, number: int) -> None:
        assert self._prepared == number
        self._note("finish", number)

    def _note(self, half: str, number: int) -> None:
        if (half, number) == self._fails:
            raise DamagedError(f"{half} {number}")
        self._log.append((half, number))


def finish(prepared: tuple[Recorder, int]) -> None:
    recorder, number = prepared
    recorder.finish(number)


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_steps_are_finished_in_order_by_whom_they_were_prepared(workers: int) -> None:
    log: list[tuple[str, int]] = []

    run_in_order(200, lambda: Recorder(log, ("", 0)).prepare, finish, workers)

    assert [n for half, n in log if half == "finish"] == list(range(200))
    assert sorted(n for half, n in log if half == "prepare") == list(range(200))


@pytest.mark.parametrize("half", ["prepare", "finish"])
@pytest.mark.parametrize("workers", [1, 2, 5])
def test_nobody_waits_for_a_step_that_failed(workers: int, half: str) -> None:
    log: list[tuple[str, int]] = []
    before = threading.active_count()

    with pytest.raises(DamagedError, match=f"{half} 50"):
        run_in_order(200, lambda: Recorder(log, (half, 50)).prepare, finish, workers)

    assert threading.active_count() == before
    finished = [number for which, number in log if which == "finish"]
    assert finished == list(range(len(finished)))
    assert len(finished) <= 50


def test_nothing_to_do() -> None:
    def step(number: int) -> None:
        raise AssertionError(number)

    run_steps(0, lambda: step, 4)


@pytest.mark.parametrize(
    "name", ["plaintext_hash_other", "padding_first_byte", "padding_last_byte"]
)
def test_vectors_that_only_whole_reads_find(name: str) -> None:
    for check_hash in (True, False):
        found = damaged_files(name, check_hash=check_hash)
        expected = ["f"] if check_hash or "padding" in name else []

        assert found == expected


@pytest.mark.parametrize("name", ["padded", "padded_beyond_a_chunk"])
def test_zeros_are_no_damage(name: str) -> None:
    assert damaged_files(name, check_hash=True) == []


def damaged_files(name: str, *, check_hash: bool) -> list[str]:
    """Return the files of a vector that are refused; what is released is right."""
    directory = build.HERE / name
    released = json.loads((directory / "expect.json").read_bytes())["released"]
    lines = build.IDENTITY.read_text().splitlines()
    identity = Identity.from_age(next(line for line in lines if line[0] != "#"))
    damaged = []
    with opened(directory / "model", identity) as sealing:
        for entry in sealing.manifest.files:
            target = bytearray(entry.size)
            try:
                sealing.read_file_into(
                    entry, memoryview(target), workers=2, check_hash=check_hash
                )
            except DamagedError:
                assert not any(target)
                damaged.append(entry.path)
            else:
                found = hashlib.sha256(target).hexdigest()
                assert found == released[entry.path]
    return damaged
