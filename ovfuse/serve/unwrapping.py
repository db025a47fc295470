"""Model keys are found by a process that ends right after.

So the daemon, which parses requests and files of strangers, has the model keys of what
it serves and never an identity or a passphrase. The keeper forks that process
(survival/unwrappers.py); both ends of the socket between are here: `ChildOpener` in the
daemon, `unwrap` in the child. Threading: any thread once it is settled.
"""

import errno
import logging
import math
import signal
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Final, Self

from ovfuse.errors import (
    KeyFileError,
    MountFailedError,
    OvfuseError,
    UsageError,
    describe,
)
from ovfuse.keys import IdentityOpener
from ovfuse.keys.identities import seconds_to_find
from ovfuse.keys.opener import AskPassphrase
from ovfuse.sealed.layout import MODEL_KEY_SIZE
from ovfuse.sealed.offsets import PREFIX_SIZE
from ovfuse.sealed.wrapped import FoundKey, WrappedKey
from ovfuse.secret import Secret, harden_process, lock_all_memory
from ovfuse.serve.background import describe_error, error_of
from ovfuse.serve.survival.channel import Message, receive, send

__all__ = ["ChildOpener", "unwrap"]

_log = logging.getLogger(__name__)

_LIMIT_SECONDS: Final = 10
"""For identities and key files to be read and tried; some sources need longer."""
_STRETCHING_SECONDS: Final = 120
"""For a passphrase to be tried, which takes seconds for each key file."""
_MAX_SIZE: Final = 512 * 1024
_SEND_BUFFER_SIZE: Final = 200 * 1024
"""The kernel doubles it: messages may have all paths of a request, and arrive whole."""
_ENDING: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)

Start = Callable[[], socket.socket | None]
"""Starts a child, and returns the socket to it."""


class ChildOpener:
    """Finds model keys in a child; see `ovfuse.keys.Opener`.

    At first one child is asked for all of them. Once settled, each is found by one of
    its own, which looks for identities anew.

    Args:
        start: starts a child.
        identities: sources; with them, no other place is looked at.
        passphrase: tried if no identity opens a model.
        may_ask: whether people may be asked for one.
    """

    def __init__(
        self,
        start: Start,
        identities: Sequence[str],
        passphrase: str | None = None,
        *,
        may_ask: bool = False,
    ) -> None:
        self._start = start
        self._identities = tuple(identities)
        self._first: _Child | None = None
        self._passphrase = passphrase
        self._may_ask = may_ask

    def begin(self) -> tuple[Path, ...]:
        """Start the first child; return the files that it has identities from.

        Raises:
            KeyFileError: a file among them must not be used, or does not answer.
        """
        self._first = self._child()
        return self._first.files

    def settle(self, identities: Sequence[str]) -> None:
        """Ask nobody any more, and end the first child.

        Args:
            identities: the same, for who may be in another directory.
        """
        self._identities = tuple(identities)
        self._passphrase, self._may_ask = None, False
        if self._first is not None:
            self._first.close()
            self._first = None

    def check(self) -> None:
        """Raise KeyFileError if there are no identities to be had now."""
        with self._child():
            pass

    def model_key(self, wrapped: WrappedKey, about: str) -> FoundKey:
        """Return the model key; see `ovfuse.keys.Opener`."""
        if self._first is not None:
            return self._first.model_key(wrapped, about)
        with self._child() as child:
            return child.model_key(wrapped, about)

    def _child(self) -> "_Child":
        connection = self._start()
        if connection is None:
            raise MountFailedError("nobody starts a process for the identities")
        return _Child(
            connection,
            (self._passphrase or "").encode("utf-8", "surrogatepass"),
            {
                "identities": self._identities,
                "has_passphrase": self._passphrase is not None,
                "may_ask": self._may_ask,
            },
            seconds_to_find(self._identities),
        )


class _Child:
    """A child as the daemon sees it.

    Args:
        connection: the socket to it; owned.
        passphrase: in UTF-8.
        asked: the other fields of its first request.
        seconds: that its sources may take, beside the time for disks.

    Raises:
        KeyFileError: see `ChildOpener.begin`.
    """

    def __init__(
        self,
        connection: socket.socket,
        passphrase: bytes,
        asked: Mapping[str, object],
        seconds: float,
    ) -> None:
        self._socket = connection
        self._buffer = bytearray(_MAX_SIZE)
        try:
            connection.setsockopt(
                socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER_SIZE
            )
            fields = self._ask("look", passphrase, (), seconds, **asked).fields
            self.files: Final = tuple(Path(path) for path in fields["files"])
        except BaseException:
            connection.close()
            raise

    def model_key(self, wrapped: WrappedKey, about: str) -> FoundKey:
        """Return the model key; see `ovfuse.keys.Opener`."""
        data = wrapped.prefix + wrapped.context
        found = self._ask("open", data, [wrapped.keys_fd], about=about)
        with _said(_LIMIT_SECONDS):
            key = Secret.filled(MODEL_KEY_SIZE, self._socket.recv_into)
        return FoundKey(key, bytes(found.record.data))

    def close(self) -> None:
        """Let it end."""
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _ask(
        self,
        kind: str,
        data: bytes,
        fds: Sequence[int] = (),
        seconds: float = 0,
        **fields: object,
    ) -> Message:
        """Return the answer, which may take seconds more; log what the child would.

        Raises:
            KeyFileError: there is none.
            OvfuseError: what the child failed with.
        """
        limit = _LIMIT_SECONDS + math.ceil(seconds)
        self._socket.settimeout(limit)
        with _said(limit):
            send(self._socket, kind, data, fds, limit=limit, **fields)  # type: ignore[arg-type]  # no secret
            while True:
                message = receive(self._socket, self._buffer)
                if message is None:
                    raise ConnectionResetError
                match message.fields["kind"]:
                    case "note":
                        _log.log(message.fields["level"], "%s", message.fields["text"])
                    case "asking":  # people take their time, and scrypt its own
                        self._socket.settimeout(None)
                    case "failed":
                        raise error_of(message.fields)
                    case _:
                        return message


@contextmanager
def _said(limit: int) -> Iterator[None]:
    """Say for people what became of the child."""
    try:
        yield
    except TimeoutError:
        raise KeyFileError(
            f"no identity can be read: no answer within {limit} seconds",
            hint="look after the disk or network that it is on",
        ) from None
    except OSError as error:
        if error.errno == errno.EMSGSIZE:
            raise UsageError("too many identity files are named") from None
        raise KeyFileError(
            "no identity can be tried: the process for it has ended", hint="try again"
        ) from None


def unwrap(daemon: socket.socket, prompt: AskPassphrase) -> None:
    """Read identities, and find model keys for the daemon until it wants no more.

    Called in a child that has nothing else to do, and dies of SIGALRM.

    Args:
        daemon: the socket to it.
        prompt: asks for a passphrase on the terminal, if there is one.
    """
    harden_process()
    lock_all_memory()
    with suppress(OSError):  # the daemon is gone
        _Unwrapping(daemon, prompt).run()


class _Unwrapping:
    def __init__(self, daemon: socket.socket, prompt: AskPassphrase) -> None:
        self._daemon = daemon
        self._prompt = prompt
        self._buffer = bytearray(_MAX_SIZE)
        self._opener: IdentityOpener | None = None

    def run(self) -> None:
        """See `unwrap`."""
        logger = logging.getLogger("ovfuse")
        logger.handlers = [_Notes(self._daemon)]
        while (request := receive(self._daemon, self._buffer)) is not None:
            # More than the daemon waits for, which then can say what it was.
            signal.alarm(request.fields["limit"] + 1)
            try:
                self._attend(request)
            except OvfuseError as error:
                send(self._daemon, "failed", **describe_error(error))
            except Exception as error:
                failed = MountFailedError(f"unexpected: {describe(error)}")
                send(self._daemon, "failed", **describe_error(failed))
                raise
            finally:
                request.record.close()
            signal.alarm(0)

    def _attend(self, request: Message) -> None:
        if self._opener is None:
            self._opener = self._look(request)
            files = [f"{path}" for path in self._opener.found.files]
            send(self._daemon, "found", files=files)
            return
        data = bytes(request.record.data)
        wrapped = WrappedKey(
            request.record.fds[0], data[:PREFIX_SIZE], data[PREFIX_SIZE:]
        )
        key, key_file = self._opener.model_key(wrapped, request.fields["about"])
        with key:
            send(self._daemon, "key", key_file)
            self._daemon.send(key.view)

    def _look(self, request: Message) -> IdentityOpener:
        fields = request.fields
        ask: AskPassphrase | None = None
        if fields["has_passphrase"]:
            passphrase = bytes(request.record.data).decode("utf-8", "surrogatepass")
            ask = _always(passphrase)
        elif fields["may_ask"]:
            ask = self._prompt
        opener = IdentityOpener.find(fields["identities"], ask)
        return replace(opener, ask=opener.ask and self._patiently(opener.ask))

    def _patiently(self, ask: AskPassphrase) -> AskPassphrase:
        """Return the same, which keeps the daemon waiting and may be interrupted."""

        def asking(about: str) -> str | None:
            send(self._daemon, "asking")
            signal.alarm(0)
            with _interruptible():
                answer = ask(about)
            signal.alarm(_STRETCHING_SECONDS)
            return answer

        return asking


def _always(answer: str) -> AskPassphrase:
    return lambda _about: answer


class _Notes(logging.Handler):
    """Log lines for the daemon, which knows where they go."""

    def __init__(self, daemon: socket.socket) -> None:
        super().__init__()
        self._daemon = daemon

    def emit(self, record: logging.LogRecord) -> None:
        """Send one."""
        send(self._daemon, "note", level=record.levelno, text=record.getMessage())


@contextmanager
def _interruptible() -> Iterator[None]:
    """Let the first signal be an interrupt, so that the terminal is put right.

    A second one must not break into that. The child has nothing to do afterwards.
    """

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        for number in _ENDING:
            signal.signal(number, signal.SIG_IGN)
        raise KeyboardInterrupt

    before = [(number, signal.signal(number, interrupt)) for number in _ENDING]
    yield
    for number, handler in before:
        signal.signal(number, handler)
