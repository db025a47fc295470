"""Between a daemon and its keeper: messages over a socket pair.

A message is a JSON object, a line feed, bytes, and perhaps a key; descriptors come
beside it. What a daemon sent before it died arrives all the same. Threading: one lock
around what needs an answer; anything else is one system call.
"""

import json
import os
import signal
import socket
import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final, Self

from ovfuse.keeping import PASSING, Record
from ovfuse.serve.background import Launch

__all__ = [
    "LOCKED",
    "Channel",
    "End",
    "KeptLaunch",
    "Message",
    "Records",
    "new_buffer",
    "receive",
    "send",
]

LOCKED: Final = "locked"
"""The record that says so; it has nothing in it."""
_MAX_SIZE: Final = 128 * 1024
"""Room for a key file."""
_MAX_DESCRIPTORS: Final = 8

Records = dict[str, Record]


@dataclass(frozen=True, slots=True)
class Message:
    """What came: `fields["kind"]` says what it is about."""

    fields: dict[str, Any]
    record: Record


@dataclass(frozen=True, slots=True)
class End:
    """How a daemon ended.

    Attributes:
        crashed: by itself, rather than by SIGKILL.
        reason: for the log.
    """

    crashed: bool
    reason: str

    @classmethod
    def of(cls, status: int, asked_for: str) -> Self:
        """Return what waitpid(2) says of one, which was perhaps asked to end."""
        code = os.waitstatus_to_exitcode(status)
        if asked_for:
            return cls(crashed=False, reason=asked_for)
        if code < 0:
            name = signal.Signals(-code).name
            return cls(crashed=code != -signal.SIGKILL, reason=f"the last got {name}")
        return cls(crashed=True, reason=f"the last ended with {code}")


def send(
    to: socket.socket,
    kind: str,
    data: bytes | memoryview = b"",
    fds: Sequence[int] = (),
    secret: bytes | memoryview = b"",
    **fields: object,
) -> None:
    """Send one message.

    Raises:
        OSError: the other side is gone.
    """
    fields = {"kind": kind, **fields}
    if secret:
        fields["secret"] = len(secret)
    head = json.dumps(fields).encode("ascii") + b"\n"
    if fds:
        socket.send_fds(to, [head, data, secret], list(fds))
    else:
        to.sendmsg([head, data, secret])


def receive(of: socket.socket, buffer: bytearray) -> Message | None:
    """Return the next message; None if there is none to come.

    Args:
        of: the socket.
        buffer: of `_MAX_SIZE` bytes, overwritten with zeros before this returns, since
            there may be a key in the message.
    """
    room = socket.CMSG_SPACE(_MAX_DESCRIPTORS * 4)
    while True:
        # The other side has died before it read an answer: that is said first, once,
        # and then what it had sent.
        with suppress(ConnectionResetError):
            size, ancillary, _, _ = of.recvmsg_into(
                [buffer], room, socket.MSG_CMSG_CLOEXEC
            )
            break
    if size == 0:
        return None
    fds: list[int] = []
    for _, _, data in ancillary:
        fds += memoryview(data).cast("i").tolist()
    end = buffer.index(b"\n")
    with memoryview(buffer) as view:
        fields = json.loads(bytes(view[:end]))
        middle = size - fields.pop("secret", 0)
        record = Record(view[end + 1 : middle], fds, view[middle:size])
        view[:size] = bytes(size)
    return Message(fields, record)


def new_buffer() -> bytearray:
    """Return a buffer for `receive`."""
    return bytearray(_MAX_SIZE)


class Channel:
    """The daemon's end; see `ovfuse.keeping.Keeping`.

    Args:
        keeper: the socket to the keeper; owned.
        inherited: what predecessors left, by name; owned.
        end: how the one before ended; None if this is the first.
        waits: whether what is kept or dropped must have come to the keeper before
            anything else is done: it passes it on, and may be killed as well. Not
            for PASSING ones.
    """

    def __init__(
        self,
        keeper: socket.socket,
        inherited: Records,
        end: End | None,
        *,
        waits: bool = False,
    ) -> None:
        self._socket = keeper
        self._inherited = inherited
        self._names = frozenset(inherited)
        self._waits = waits
        self._lock = threading.Lock()
        self.keeper: int | None = os.getppid()
        self.end: Final = end

    @property
    def is_successor(self) -> bool:
        """Whether another process served before this one."""
        return self.end is not None

    @property
    def predecessor_crashed(self) -> bool:
        """Whether that one ended by itself rather than by SIGKILL."""
        return self.end is not None and self.end.crashed

    @property
    def reason(self) -> str:
        """Why that one ended, for people."""
        return self.end.reason if self.end else ""

    @property
    def is_locked(self) -> bool:
        """Whether the mount was locked when this process began."""
        return LOCKED in self._names

    def lock(self) -> bool:
        """Forget all but the mount itself; see `Keeping`."""
        self.close_inherited()
        return bool(self.ask("lock").get("done"))

    def unlock(self) -> bool:
        """Forget that it is locked; see `Keeping`."""
        return bool(self.ask("unlock").get("done"))

    def start_unwrapper(self) -> socket.socket:
        """Have a process started that may have identities; see `Keeping`."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs, suppress(OSError):
            send(self._socket, "unwrap", fds=[theirs.fileno()])
        return ours

    def reload(self) -> str | None:
        """Have a new version of the program go on; see `Keeping`."""
        answer = self.ask("reload")
        reason = answer.get("refused", "the keeper does not answer")
        return None if reason is None else str(reason)

    def keep(
        self,
        name: str,
        data: bytes | memoryview = b"",
        fds: Sequence[int] = (),
        secret: bytes | memoryview = b"",
    ) -> None:
        """Keep a record; see `Keeping`."""
        if self._waits and not name.startswith(PASSING):
            self.ask("keep", data=data, fds=fds, secret=secret, name=name, waits=True)
            return
        with suppress(OSError):  # the keeper is gone, and this process about to end
            send(self._socket, "keep", data, fds, secret, name=name)

    def drop(self, name: str) -> None:
        """Forget a record; see `Keeping`."""
        if self._waits and not name.startswith(PASSING):
            self.ask("drop", name=name, waits=True)
            return
        with suppress(OSError):
            send(self._socket, "drop", name=name)

    def take(self, prefix: str) -> Iterator[tuple[str, Record]]:
        """Yield what was inherited; see `Keeping`."""
        for name in [n for n in self._inherited if n.startswith(prefix)]:
            yield name.removeprefix(prefix), self._inherited.pop(name)

    def close_inherited(self) -> None:
        """Close what nobody took."""
        while self._inherited:
            self._inherited.popitem()[1].close()

    def tell(self, kind: str, **fields: object) -> None:
        """Tell the keeper something."""
        send(self._socket, kind, **fields)  # type: ignore[arg-type]

    def ask(self, kind: str, **fields: object) -> dict[str, Any]:
        """Ask the keeper something; nothing in the answer if it is gone."""
        with self._lock:
            try:
                self.tell(kind, **fields)
                answer = receive(self._socket, new_buffer())
            except OSError:
                return {}
        return answer.fields if answer else {}


class KeptLaunch:
    """The daemon's side of a launch: the keeper lives in the same terminal."""

    def __init__(self, launch: Launch, channel: Channel) -> None:
        self._launch = launch
        self._channel = channel

    def detach(self) -> None:
        """Detach both."""
        self._launch.detach()
        self._tell("detach")

    def settle(self) -> None:
        """Let go of the terminal."""
        self._launch.settle()

    def ready(self) -> bool:
        """Tell the keeper, which tells whoever waits."""
        self._channel.close_inherited()  # all has been taken that is of use
        return bool(self._channel.ask("ready").get("heard"))

    def report(self, status: str) -> None:
        """Tell the keeper, which tells the service manager, and else loses patience."""
        self._tell("report", status=status)

    def stopping(self) -> None:
        """Tell the keeper."""
        self._tell("stopping")

    def _tell(self, kind: str, **fields: object) -> None:
        with suppress(OSError):
            self._channel.tell(kind, **fields)
