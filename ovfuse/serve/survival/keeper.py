"""The daemon's parent: keeps what a successor needs, and starts it.

It has imported all that a daemon needs, so that a successor is a fork away; it has no
thread, no listening socket and serves nothing. With a store, it may be killed as well,
or asked by SIGTERM to leave the mount to the next keeper. Single-threaded.
"""

import os
import signal
import socket
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

from ovfuse.errors import MountFailedError, OvfuseError
from ovfuse.keeping import Record
from ovfuse.serve.background import Launch, error_of
from ovfuse.serve.readable import wait_readable
from ovfuse.serve.survival.channel import (
    LOCKED,
    Channel,
    End,
    KeptLaunch,
    Message,
    Records,
    new_buffer,
    send,
)
from ovfuse.serve.survival.daemon import Serve, run_daemon
from ovfuse.serve.survival.reload import Restart, reason_against, start_anew
from ovfuse.serve.survival.remains import Remains, hear
from ovfuse.serve.survival.store import Store
from ovfuse.serve.survival.unwrappers import Unwrap, Unwrappers

__all__ = ["Means", "Serve", "keep_serving"]

_OF_THE_MOUNT: Final = frozenset({"connection", "device", "ledger", LOCKED})
"""The records that are needed without a key."""
_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
_LEAVE: Final = signal.SIGKILL
"""What the daemon gets instead of SIGTERM, so that the mount stays."""
_INTERRUPTED_SECONDS: Final = 0.3
_LONGEST_GAP_SECONDS: Final = 30.0
"""After so long without a daemon, requests fail rather than wait."""
_SHORT_SECONDS: Final = 1.0
"""A daemon that crashes so soon after it served is not replaced at once."""
_LOOK_SECONDS: Final = 0.02


@dataclass(frozen=True, slots=True, kw_only=True)
class Means:
    """What a keeper has besides.

    Attributes:
        restart: how another version of the program goes on.
        unwrap: what a short-lived process does that the daemon asks for.
        store: where records outlive the keeper, those that are inherited included.
        patience: seconds without a report after which a daemon that served hangs,
            and is replaced; 0: there are no reports.
        held: descriptors for these short-lived processes, not for a daemon; until the
            mount is locked.
    """

    restart: Restart | None = None
    unwrap: Unwrap | None = None
    store: Store | None = None
    patience: float = 0.0
    held: tuple[int, ...] = ()


def keep_serving(
    serve: Serve,
    launch: Launch,
    means: Means | None = None,
    inherited: Records | None = None,
) -> bool:
    """Serve in a child, and in another one whenever it dies; return at the end.

    A child that dies before its mount was ready is not replaced. After it, one that
    does not get as far is tried again, later each time.

    Args:
        serve: called in the child.
        launch: told, once, how the start goes.
        means: what there is besides.
        inherited: what the version before left, or a keeper that was killed or asked
            to leave it: there is a mount already.

    Returns:
        False if nobody was left to unmount: asked to stop, it died all the same.
        True if it has ended well, or is left to the next keeper.

    Raises:
        MountFailedError: it died before the mount was ready, or there is no successor.
        OvfuseError: what `serve` raises.
    """
    return _Keeper(serve, launch, means or Means(), inherited).run()


class _Keeper:
    def __init__(
        self,
        serve: Serve,
        launch: Launch,
        means: Means,
        inherited: Records | None,
    ) -> None:
        self._serve = serve
        self._launch = launch
        self._restart = means.restart
        self._records: Records = inherited or {}
        self._unwrappers = Unwrappers(means.unwrap, means.held)
        self._remains = Remains()
        self._store = means.store
        self._patience = means.patience
        self._buffer = new_buffer()
        goes_on = inherited is not None
        is_restart = self._store is not None and self._store.was_inherited
        reason = "restarted" if is_restart else "reloaded"
        self._end = End(crashed=False, reason=reason) if goes_on else None
        self._pid = 0
        self._daemon: socket.socket | None = None
        self._was_ready, self._is_ready = goes_on, False
        self._was_told = goes_on and not is_restart  # that it is ready
        self._is_to_reload = False
        self._is_over = False
        """Whether the daemon locked the mount: nothing is kept for it any more."""
        self._reason = ""
        self._error: OvfuseError | None = None
        self._has_ended = self._has_ended_well = False
        self._asked_to_stop: int | None = None
        self._alive_at = time.monotonic()

    def run(self) -> bool:
        """See `keep_serving`."""
        before = [(n, signal.signal(n, self._forward)) for n in _SIGNALS]
        give_up = signal.signal(signal.SIGALRM, self._give_up)
        before.append((signal.SIGALRM, give_up))
        before.append((signal.SIGCHLD, signal.signal(signal.SIGCHLD, self._reap)))
        try:
            attempts = 0
            while not self._has_ended and not self._is_to_stop:
                if attempts:
                    self._pause(min(0.02 * 2**attempts, 5.0))
                self._live()
                attempts = 0 if self._has_lived() else attempts + 1
                self._check()
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            for number, handler in before:
                signal.signal(number, handler)
            for record in self._records.values():
                record.close()
            if self._store and not self._is_left:
                self._store.clear()
        if self._error is not None:
            raise self._error
        return self._has_ended_well or self._is_left

    @property
    def _is_left(self) -> bool:
        """Whether the next keeper is to go on with it, if there is one."""
        return self._asked_to_stop == _LEAVE and not self._has_ended_well

    @property
    def _is_to_stop(self) -> bool:
        return self._was_ready and self._asked_to_stop is not None

    def _pause(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end and not self._is_to_stop:
            time.sleep(_LOOK_SECONDS)

    def _has_lived(self) -> bool:
        """Tell whether the last one served, and did not crash at once."""
        is_crash = self._end is not None and self._end.crashed
        lived = time.monotonic() - self._alive_at
        return self._is_ready and not (is_crash and lived < _SHORT_SECONDS)

    def _live(self) -> None:
        """Start a daemon, and attend to it until it has ended."""
        sys.stdout.flush()
        sys.stderr.flush()
        self._is_ready, self._is_over, self._error = False, False, None
        if LOCKED in self._records:
            self._lock()  # what is left of keys, if one was killed that (un)locked it
        # No signal may come before it is known to whom it is to be passed on.
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        if self._is_to_stop:  # it came while there was nobody to be told
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
            return
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        keeper = os.getpid()
        self._pid = os.fork()
        if self._pid == 0:
            ours.close()
            self._unwrappers.empty_held()
            waits = self._store is not None
            channel = Channel(theirs, self._records, self._end, waits=waits)
            launch = KeptLaunch(self._launch, channel)
            last = signal.SIGKILL if waits else signal.SIGTERM
            run_daemon(self._serve, launch, channel, keeper, last)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
        theirs.close()
        self._daemon = ours
        if self._was_ready:
            self._wait_for_report()
        with ours:
            while (message := hear(ours, self._pid, self._buffer)) is not None:
                self._attend(message, ours)
        status = self._remains.wait_for(self._pid)
        self._pid = 0
        self._unwrappers.end()
        if self._store:
            self._store.flush()
        self._end = End.of(status, self._reason)
        self._reason = ""

    def _attend(self, message: Message, daemon: socket.socket) -> None:
        answer = self._obey(message)
        if answer is not None or message.fields.get("waits"):
            with suppress(OSError):
                send(daemon, message.fields["kind"], **(answer or {}))
        if self._store:
            self._store.wait(daemon)

    def _obey(self, message: Message) -> dict[str, Any] | None:
        """Do what a message says; return the answer, if one is waited for."""
        fields = message.fields
        match fields["kind"]:
            case "keep":
                self._keep(fields["name"], message.record)
            case "drop":
                self._drop(fields["name"])
            case "unwrap":
                self._unwrappers.start(message.record, self._records)
            case "detach":
                if not self._was_ready:
                    self._launch.detach()
            case "report":
                self._launch.report(fields["status"])
                self._wait_for_report()
            case "stopping":
                self._launch.stopping()
            case "failed":
                self._error = error_of(fields)
            case "ended":
                self._has_ended = self._has_ended_well = True
            case kind:
                return self._answer(kind)
        return None

    def _answer(self, kind: str) -> dict[str, Any]:
        """Do what the daemon waits for; but for `ready`, it then ends."""
        if kind == "ready":
            return {"heard": self._note_ready()}
        if kind == "reload":
            reason = self._reason_against_reloading()
            self._is_to_reload = reason is None
            self._reason = "reloaded" if reason is None else ""
            return {"refused": reason}
        was_locked = LOCKED in self._records
        if kind == "lock":
            self._lock()
            self._is_over = not was_locked
            self._reason = "not unlocked" if was_locked else "locked"
        elif kind == "unlock":
            self._drop(LOCKED)
            self._reason = "unlocked"
        return {"done": True}

    def _reason_against_reloading(self) -> str | None:
        if self._restart is None:
            return "it was not started by the mount command"
        return reason_against()

    def _lock(self) -> None:
        """Drop everything that leads to a key or to plaintext."""
        if LOCKED not in self._records:
            self._keep(LOCKED, Record(b""))
        self._unwrappers.empty_held()
        for name in self._records.keys() - _OF_THE_MOUNT:
            self._drop(name)
        if self._store:
            self._store.settle()

    def _keep(self, name: str, record: Record) -> None:
        before = record if self._is_over else self._records.get(name)
        if not self._is_over:
            self._records[name] = record
            if self._store:
                self._store.put(name, record)
        if before is not None:
            before.close()

    def _drop(self, name: str) -> None:
        record = self._records.pop(name, None)
        if self._store:
            self._store.drop(name)
        if record is not None:
            record.close()

    def _note_ready(self) -> bool:
        self._is_ready = True
        self._alive_at = time.monotonic()
        if self._was_told:
            return True
        self._was_ready = self._was_told = True
        self._launch.settle()
        self._wait_for_report()
        return self._launch.ready()

    def _wait_for_report(self) -> None:
        if self._patience:
            signal.setitimer(signal.ITIMER_REAL, self._patience)

    def _check(self) -> None:
        """Decide whether there is to be another daemon.

        Raises:
            MountFailedError: there is none, and nothing was said.
        """
        if self._has_ended:
            return
        if self._is_to_reload and self._restart is not None:
            self._is_to_reload = False
            self._reload(self._restart)
        if not self._was_ready:
            if self._asked_to_stop == signal.SIGINT:
                raise KeyboardInterrupt
            self._has_ended = True
            self._error = self._error or MountFailedError(
                "the daemon died before it was ready"
            )
        elif self._is_ready:
            self._alive_at = time.monotonic()
            # An error is one that it came to know of while it served.
            self._has_ended = self._error is not None or bool(self._asked_to_stop)
        elif not self._was_told and self._error is not None:
            self._has_ended = True  # somebody waits to be told
        elif time.monotonic() - self._alive_at > _LONGEST_GAP_SECONDS:
            self._has_ended = True
            self._error = self._error or MountFailedError(
                "the daemon dies again and again"
            )

    def _reload(self, restart: Restart) -> None:
        """Become another program, or go on; what is asked to stop stops."""
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        try:
            if not self._asked_to_stop:
                stored = self._store.facts if self._store else None
                held = self._unwrappers.held
                start_anew(restart, self._records, stored, held)
        except OSError:
            self._end = End(crashed=False, reason="not reloaded")
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)

    def _forward(self, number: int, _frame: object) -> None:
        if number == signal.SIGTERM and self._store and self._was_ready:
            if self._asked_to_stop is not None:
                return  # another signal has said to unmount, and that is under way
            number = _LEAVE
        self._asked_to_stop = number
        if number == signal.SIGINT and not self._was_ready:
            # From a terminal, the daemon has it, too, and may have to put the terminal
            # right, which a second one would break into.
            signal.setitimer(signal.ITIMER_REAL, _INTERRUPTED_SECONDS)
        elif self._pid:
            with suppress(ProcessLookupError):  # it has just been waited for
                os.kill(self._pid, number)

    def _reap(self, *_: object) -> None:
        self._unwrappers.reap()
        self._remains.reap()

    def _has_message(self) -> bool:
        daemon = self._daemon
        if daemon is None or daemon.fileno() < 0:
            return False
        return wait_readable(daemon, 0)

    def _give_up(self, _number: int, _frame: object) -> None:
        """End a daemon that was interrupted at its start, or hangs."""
        if self._pid and not self._was_ready:
            os.kill(self._pid, signal.SIGTERM)
        elif self._pid and self._has_message():
            self._wait_for_report()  # it is the keeper that is slow
        elif self._pid:
            self._reason = "the last did not answer"
            os.kill(self._pid, signal.SIGKILL)
