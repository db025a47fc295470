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

import pytest

from ovfuse.keeping import Record
from ovfuse.serve.survival.channel import Channel, End, new_buffer, receive, send
from ovfuse.serve.survival.ledger import Ledger, Unfinished, take_over_ledger
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
    assert successor.take_unfinished(2) == Unfinished((5, 6, 1 << 63), 0, 1)
    assert successor.take_unfinished(2) is None
    assert successor.take_unfinished(4) == Unfinished((), 0, 1)
    assert successor.take_unfinished(6) is None
    assert after_death(kept).unfinished == []


def test_deaths_are_counted_of_those_who_were_at_work_on_it(kept: Kept) -> None:
    """Not of those who died before it came to them again."""
    take_over_ledger(kept).slot().begin(2, None)
    after_death(kept, crashed=True)
    for _ in range(3):
        ledger = after_death(kept, crashed=True)
    before = ledger.take_unfinished(2)
    assert before == Unfinished((), crashes=1, kills=0)
    slot = ledger.slot()
    slot.begin(2, before)
    assert slot.kills == 0

    ledger = after_death(kept)

    before = ledger.take_unfinished(2)
    assert before == Unfinished((), crashes=1, kills=1)


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
