"""What a daemon leaves to its successor: messages, counts, requests; no keys here."""

import errno
import os
import signal
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import cast

import pytest

from ovfuse.keeping import Record
from ovfuse.serve.engine import Setup
from ovfuse.serve.failures import Failures
from ovfuse.serve.kernel import wire
from ovfuse.serve.kernel.operations import REPLY_SIZE, Operations, Request
from ovfuse.serve.kernel.wire import Opcode
from ovfuse.serve.known_nodes import ROOT_ID, NodeTable
from ovfuse.serve.open_files import OpenFiles
from ovfuse.serve.options import MountOptions
from ovfuse.serve.processes import NOBODY
from ovfuse.serve.survival import ledger as ledger_module
from ovfuse.serve.survival.channel import Channel, End, new_buffer, receive, send
from ovfuse.serve.survival.ledger import Ledger, Slot, Unfinished, take_over_ledger
from ovfuse.view.contract import View
from tests.serve.memory_view import MemoryView
from tests.serve.mounter import Mounter, is_gone
from tests.support.keeping import Kept
from tests.support.killing import child_of, parent_of
from tests.support.users import needs_root
from tests.support.waiting import wait_until


@pytest.fixture
def engine() -> str:
    return "kernel"


# Messages


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """The keeper's end, and the daemon's."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        yield ours, theirs


def test_message_comes_with_bytes_and_descriptors_and_leaves_none(
    pair: tuple[socket.socket, socket.socket], tmp_path: Path
) -> None:
    ours, theirs = pair
    buffer = new_buffer()
    fd = os.open(tmp_path, os.O_RDONLY)
    Channel(theirs, {}, None).keep("näme\n/", b"a\nkey", [fd, fd])
    os.close(fd)

    message = receive(ours, buffer)

    assert message is not None
    assert message.fields == {"kind": "keep", "name": "näme\n/"}
    assert bytes(message.record.data) == b"a\nkey"
    assert not any(buffer)
    for copy in message.record.fds:
        assert os.path.samestat(os.fstat(copy), tmp_path.stat())
        assert not os.get_inheritable(copy)
    message.record.close()
    for copy in message.record.fds:
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(copy)


def test_what_was_sent_before_death_arrives(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    """Also where the dead one had not read what it was told: then a reset comes."""
    ours, theirs = pair
    for number in range(3):
        send(theirs, "drop", name=f"{number}")
    send(ours, "heard", heard=True)
    theirs.close()

    names = []
    while (message := receive(ours, new_buffer())) is not None:
        names.append(message.fields["name"])
    assert names == ["0", "1", "2"]


def test_daemon_without_a_keeper_hears_nothing(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    ours, theirs = pair
    channel = Channel(theirs, {}, None)
    ours.close()

    channel.keep("a", b"b", [0])
    channel.drop("a")
    assert channel.ask("ready") == {}
    with pytest.raises(OSError, match="Broken pipe"):
        channel.tell("ended")


def test_inheritance_is_taken_once_and_the_rest_closed(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    _, theirs = pair
    fds = [os.dup(theirs.fileno()) for _ in range(2)]
    records = {"a/1": Record(b"one", fds[:1]), "b/2": Record(b"two", fds[1:])}
    channel = Channel(theirs, records, End(crashed=False, reason="Killed"))
    assert channel.is_successor
    assert not channel.predecessor_crashed

    taken = dict(channel.take("a/"))
    assert list(taken) == ["1"]
    assert bytes(taken["1"].data) == b"one"
    assert not dict(channel.take("a/"))
    channel.close_inherited()

    assert os.fstat(fds[0])
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fds[1])
    taken["1"].close()


# Counts and requests


@pytest.fixture
def kept() -> Iterator[Kept]:
    kept = Kept()
    yield kept
    kept.close()


def after_death(kept: Kept, *, crashed: bool = False) -> Ledger:
    """Return what a successor finds of the last `take_over_ledger`."""
    return take_over_ledger(kept.successor(crashed=crashed))


def test_counts_outlive_growth_and_reuse(kept: Kept) -> None:
    ledger = take_over_ledger(kept)
    for node in range(1, 10_001):
        ledger.lookups[node << 48] = node
        ledger.opens[node] = 1
        ledger.opens[node] = 0
    for node in range(1, 10_001, 2):
        ledger.lookups[node << 48] = 0
    for node in range(20_001, 23_001):
        ledger.lookups[node] = 7
    expected = {node << 48: node for node in range(2, 10_001, 2)}
    expected |= dict.fromkeys(range(20_001, 23_001), 7)
    assert dict(ledger.lookups) == expected
    sizes = [os.fstat(fd).st_size for fd in ledger.fds]

    for _ in range(3):
        again = after_death(kept)

        assert dict(again.lookups) == expected
        assert dict(again.opens) == {}
        again.lookups[3] = 3
        expected[3] = 3
    assert [os.fstat(fd).st_size for fd in ledger.fds] == sizes


def test_what_was_answered_is_not_unfinished(kept: Kept) -> None:
    ledger = take_over_ledger(kept)
    slot = ledger.slot()
    for unique in (2, 4, 6):
        slot.begin(unique, None)
        slot.note(unique)
        slot.end()
    other = ledger.slot()
    other.begin(8, None)
    ledger.give_back(other)

    assert after_death(kept).unfinished == []


def test_what_was_told_is_found_once(kept: Kept) -> None:
    ledger = take_over_ledger(kept)
    told, none = ledger.slot(), ledger.slot()
    told.begin(2, None)
    told.note(5, 6, 1 << 63)
    none.begin(4, None)

    successor = after_death(kept)

    assert sorted(successor.unfinished) == [2, 4]
    expected = Unfinished((5, 6, 1 << 63), 0, 1)
    for unique, before in ((2, expected), (2, None), (4, Unfinished((), 0, 1))):
        slot = begun_again(successor, unique)
        assert slot.before == before
        slot.end()
    assert begun_again(successor, 6).before is None
    assert after_death(kept).unfinished == [6]


def test_deaths_are_counted_of_those_who_were_at_work_on_it(kept: Kept) -> None:
    """Not of those who died before it came to them again."""
    take_over_ledger(kept).slot().begin(2, None)
    after_death(kept, crashed=True)
    for _ in range(3):
        ledger = after_death(kept, crashed=True)
    slot = begun_again(ledger, 2)
    assert slot.before == Unfinished((), crashes=1, kills=0)
    assert slot.kills == 0

    slot = begun_again(after_death(kept), 2)

    assert slot.before == Unfinished((), crashes=1, kills=1)
    assert slot.kills == 1


@pytest.mark.parametrize("place", [None, (Slot, "begin"), (Ledger, "give_back")])
@pytest.mark.parametrize("is_above", [False, True])
def test_what_was_told_is_found_until_it_is_undone(
    kept: Kept, *, is_above: bool, place: tuple[type, str] | None
) -> None:
    """By whoever comes after one that was killed while taking it up, at `place`.

    That one's slot may be above the older one or below.
    """
    ledger = take_over_ledger(kept)
    if is_above:
        ledger.slot()
    slot = ledger.slot()
    slot.begin(2, None)
    slot.note(5)
    ledger = after_death(kept)
    if place is None:
        assert begun_again(ledger, 2).noted == (5,)
    else:
        with killed_at(*place):
            begun_again(ledger, 2)
    if place == (Ledger, "give_back"):  # so it is in two slots: killed over that, too
        with killed_at(*place):
            after_death(kept)

    successor = after_death(kept)

    slots = [successor.slot() for _ in range(255)]
    assert len({slot.index for slot in slots}) == 255
    successor.give_back(slots.pop())
    slot = begun_again(successor, 2)
    kills = 1 if place == (Slot, "begin") else 2
    assert slot.before == Unfinished((5,), crashes=0, kills=kills)
    slot.end()
    assert after_death(kept).unfinished == []


def test_notes_are_not_taken_together_with_older_ones(kept: Kept) -> None:
    slot = take_over_ledger(kept).slot()
    slot.begin(2, None)
    slot.note(5, 6)

    with killed_at(ledger_module, "array"):
        slot.note(7)

    before = begun_again(after_death(kept), 2).before
    assert before == Unfinished((), crashes=0, kills=1)


@pytest.mark.parametrize("place", [None, (Slot, "begin"), (Ledger, "give_back")])
def test_file_is_released_once(
    kept: Kept, source: Path, place: tuple[type, str] | None
) -> None:
    """However many are killed before they have answered that, and wherever."""
    view = MemoryView(source)
    file = file_in(view)
    ledger = take_over_ledger(kept)
    ledger.lookups[file] = ledger.opens[file] = 2
    release = (Opcode.RELEASE, file, wire.RELEASE_IN.pack(file, 0, 0, 0))
    first = daemon(view, ledger)
    asked = request(first, *release)
    first.answer(asked, memoryview(bytearray(REPLY_SIZE)))
    first.take_back(asked)  # it was interrupted, and the kernel did not hear of that

    if place is not None:
        with killed_at(*place):
            answer(daemon(view, after_death(kept)), *release)
    for _ in range(2):
        ledger = after_death(kept)
        assert answer(daemon(view, ledger), *release) == 0
        assert dict(ledger.opens) == {file: 1}


@pytest.mark.parametrize("is_late", [False, True])
@pytest.mark.parametrize("opcode", [Opcode.LOOKUP, Opcode.OPEN])
def test_what_was_told_is_undone_once(
    kept: Kept, source: Path, opcode: Opcode, *, is_late: bool
) -> None:
    """If who undoes it is killed before, the count stays too high; never too low."""
    view = MemoryView(source)
    file = file_in(view)
    ledger = take_over_ledger(kept)
    ledger.lookups[file] = ledger.opens[file] = 1
    is_open = opcode == Opcode.OPEN
    body = wire.OPEN_IN.pack(0, 0) if is_open else b"small.txt\0"
    telling = (opcode, file if is_open else ROOT_ID, body)
    undoing = (OpenFiles, "release") if is_open else (NodeTable, "forget")

    first = daemon(view, ledger)
    asked = request(first, *telling)
    first.answer(asked, memoryview(bytearray(REPLY_SIZE)))
    assert asked.slot.noted == (file,)
    with killed_at(*undoing, is_late=is_late):
        first.take_back(asked)  # which was interrupted

    second = daemon(view, after_death(kept))
    asked = request(second, *telling)
    assert asked.slot.before == Unfinished((), crashes=0, kills=1)
    second.answer(asked, memoryview(bytearray(REPLY_SIZE)))
    assert asked.slot.noted == (file,)

    third = daemon(view, after_death(kept))
    with killed_at(*undoing, is_late=is_late):
        answer(third, *telling)

    ledger = after_death(kept)
    assert answer(daemon(view, ledger), *telling) == 0
    counts = ledger.opens if is_open else ledger.lookups
    assert dict(counts) == {file: 2 if is_late else 4}


def begun_again(ledger: Ledger, unique: int) -> Slot:
    """Return the slot of a request that comes again."""
    slot = ledger.slot()
    ledger.begin(slot, unique, comes_again=True)
    return slot


class KilledError(BaseException):
    """Nothing of the process is at work after it."""


@contextmanager
def killed_at(place: object, name: str, *, is_late: bool = False) -> Iterator[None]:
    """Be killed at the first call of that function, or when it has done its work."""
    function = getattr(place, name)

    def killed(*arguments: object, **options: object) -> None:
        if is_late:
            function(*arguments, **options)
        raise KilledError

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(place, name, killed)
        with pytest.raises(KilledError):
            yield


def file_in(view: MemoryView) -> int:
    return view.lookup(view.root, b"small.txt").number


def daemon(view: MemoryView, ledger: Ledger) -> Operations:
    """Return what answers requests, with what was left to it."""
    setup = Setup(
        view=cast("View", view),
        cipherdir=Path("/"),
        mountpoint=Path("/"),
        options=MountOptions(),
        failures=Failures(),
    )
    operations = Operations(setup, ledger)
    operations.nodes.restore()
    operations.files.restore(setup.view, operations.nodes)
    return operations


def request(operations: Operations, opcode: int, nodeid: int, body: bytes) -> Request:
    """Return the one request of these tests, as it comes again."""
    slot = begun_again(operations.ledger, 2)
    return Request(opcode, 2, nodeid, NOBODY, memoryview(body), slot)


def answer(operations: Operations, opcode: int, nodeid: int, body: bytes) -> int:
    """Return the errno of an answer that is not sent."""
    reply = memoryview(bytearray(REPLY_SIZE))
    operations.answer(request(operations, opcode, nodeid, body), reply)
    error: int = wire.OUT_HEADER.unpack_from(reply)[1]
    return -error


def test_slots_of_what_nobody_asks_for_again_become_free(kept: Kept) -> None:
    ledger = take_over_ledger(kept)
    for unique in range(2, 42, 2):
        slot = ledger.slot()
        slot.begin(unique, None)
    for _ in range(8):
        ledger = after_death(kept)
        assert len(ledger.unfinished) == 20

    ledger = after_death(kept)

    assert ledger.unfinished == []
    slots = [ledger.slot() for _ in range(256)]
    assert len({slot.index for slot in slots}) == 256


def test_kernel_that_sends_nothing_again_hears_of_all_that_may_be_unanswered(
    kept: Kept,
) -> None:
    ledger = take_over_ledger(kept)
    assert ledger.unanswered == set()
    slow, quick = ledger.slot(), ledger.slot()
    slow.begin(10, None)
    quick.begin(100_000, None)
    quick.end()

    unanswered = after_death(kept).unanswered

    assert {10, 99_998, 100_000, 100_002} <= unanswered
    assert 99_999 not in unanswered
    assert len(unanswered) < 5000


# Requests that are held up when a daemon dies


class Waiting(threading.Thread):
    """Asks something of a path, which may take."""

    def __init__(self, ask: Callable[[Path], object], path: Path) -> None:
        super().__init__(daemon=True)
        self._ask = ask
        self._path = path
        self._found: object = None
        self.start()

    def run(self) -> None:
        try:
            self._found = self._ask(self._path)
        except OSError as error:
            self._found = error.errno

    def result(self) -> object:
        """Return the answer, or the errno."""
        self.join(30)
        assert not self.is_alive()
        return self._found


@contextmanager
def held_up(mounter: Mounter) -> Iterator[tuple[int, Waiting]]:
    """Mount, and have a request wait; the keeper and who waits."""
    (mounter.source / "slow").mkdir()
    (mounter.source / "slow/inner.txt").touch()
    keeper = parent_of(daemon := mounter.mount())
    listing = Waiting(os.listdir, mounter.mountpoint / "slow")
    wait_until(lambda: mounter.is_slow(daemon))
    try:
        yield keeper, listing
    finally:
        mounter.gate.touch()
        listing.join(30)
    assert (mounter.mountpoint / "small.txt").read_bytes() == b"hello\n"
    assert mounter.is_serving()


def end(keeper: int, number: int) -> int:
    """End the daemon; return which it was."""
    daemon = child_of(keeper)
    assert daemon is not None
    os.kill(daemon, number)
    return daemon


def end_and_wait(mounter: Mounter, keeper: int, number: int) -> None:
    """End the daemon, and wait until its successor is at work on the same."""
    before = end(keeper, number)

    def goes_on() -> bool:
        now = child_of(keeper)
        return now not in (None, before) and mounter.is_slow(now or 0)

    wait_until(goes_on)


@pytest.mark.fuse
def test_kills_fail_no_request(mounter: Mounter) -> None:
    with held_up(mounter) as (keeper, listing):
        for _ in range(5):
            end_and_wait(mounter, keeper, signal.SIGKILL)
        mounter.gate.touch()

        assert listing.result() == ["inner.txt"]


@needs_root
@pytest.mark.fuse
def test_daemon_that_cannot_die_is_replaced(mounter: Mounter) -> None:
    """It tells the kernel of a change in a directory in which a LOOKUP is answered."""
    mounter.environment["OVFUSE_TEST_CHANGES"] = "1"
    (mounter.source / "slow").mkdir()
    (mounter.source / "slow/inner.txt").touch()
    keeper = parent_of(daemon := mounter.mount())
    with abortable(mounter.mountpoint):
        looking = Waiting(Path.is_file, mounter.mountpoint / "slow/inner.txt")
        wait_until(lambda: mounter.is_slow(daemon))
        mounter.gate.with_suffix(".change").touch()
        wait_until(lambda: "D" in states_of(daemon))

        end_and_wait(mounter, keeper, signal.SIGKILL)
        mounter.gate.touch()

        assert looking.result() is True
    wait_until(lambda: is_gone(daemon) and not Path(f"/proc/{daemon}").exists())
    assert mounter.is_serving()


def states_of(pid: int) -> set[str]:
    """Return the states of a process's threads, as in proc(5)."""
    found = set()
    for thread in Path(f"/proc/{pid}/task").iterdir():
        with suppress(FileNotFoundError):
            found.add((thread / "stat").read_text().rpartition(")")[2].split()[0])
    return found


@contextmanager
def abortable(mountpoint: Path) -> Iterator[None]:
    """End the connection if something goes wrong: nobody can be killed who waits."""
    try:
        yield
    except BaseException:
        subprocess.run(["umount", "-f", mountpoint], check=False)
        raise


@pytest.mark.fuse
@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGABRT])
def test_second_crash_fails_the_request_and_no_other(
    mounter: Mounter, number: int
) -> None:
    with held_up(mounter) as (keeper, listing):
        end_and_wait(mounter, keeper, number)
        end_and_wait(mounter, keeper, signal.SIGKILL)
        end(keeper, number)

        assert listing.result() == errno.EIO
        wait_until(mounter.is_serving)
        again = Waiting(os.listdir, mounter.mountpoint / "slow")
        wait_until(lambda: mounter.is_slow(child_of(keeper) or 0))
        mounter.gate.touch()
        assert again.result() == ["inner.txt"]
    assert "ended the daemon twice" in mounter.log.read_text()


@pytest.mark.fuse
def test_kernel_that_sends_nothing_again_gets_an_error(mounter: Mounter) -> None:
    mounter.environment["OVFUSE_TEST_OLD"] = "1"
    with held_up(mounter) as (keeper, listing):
        end(keeper, signal.SIGKILL)

        assert listing.result() == errno.EIO
        wait_until(mounter.is_serving)
