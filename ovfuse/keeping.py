"""What a process leaves behind, so that a successor goes on where it was killed.

Records have a name, some bytes, some descriptors and perhaps a key. They are kept
outside of the process that makes them; who keeps them is in serve/survival.
docs/survival.md lists all records and what is in them.
"""

import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Final, Protocol

from ovfuse.secret import Secret

__all__ = ["PASSING", "Keeping", "NothingKept", "Record"]

PASSING: Final = "file/"
"""What the names of records begin with that come and go often. Little is lost without
them, so that nobody waits until they are kept wherever they are to be."""


class Record:
    """Bytes, descriptors, and a key, which alone must not leave locked memory.

    Args:
        data: copied into locked memory, too.
        fds: owned from here on.
        secret: likewise copied; nothing, if there is none or nobody has it any more.
    """

    def __init__(
        self,
        data: bytes | memoryview,
        fds: Sequence[int] = (),
        secret: bytes | memoryview = b"",
    ) -> None:
        self._data = Secret(data)
        self._secret = Secret(secret)
        self.fds: Final = tuple(fds)

    @property
    def data(self) -> memoryview:
        """The bytes, read-only, until they are wiped."""
        return self._data.view

    @property
    def secret(self) -> memoryview:
        """The key, likewise."""
        return self._secret.view

    def wipe(self) -> None:
        """Overwrite the bytes and the key; the descriptors are the caller's."""
        self._data.wipe()
        self._secret.wipe()

    def close(self) -> None:
        """Overwrite the bytes and close the descriptors."""
        self.wipe()
        for fd in self.fds:
            with suppress(OSError):
                os.close(fd)


class Keeping(Protocol):
    """Where records are kept; any thread."""

    @property
    def keeper(self) -> int | None:
        """The process that keeps them; None if nothing is kept."""

    @property
    def is_successor(self) -> bool:
        """Whether another process served before this one."""

    @property
    def predecessor_crashed(self) -> bool:
        """Whether that one ended by itself rather than by SIGKILL."""

    @property
    def is_locked(self) -> bool:
        """Whether the mount was locked when this process began."""

    @property
    def reason(self) -> str:
        """Why that one ended, for people; empty if there was none."""

    def lock(self) -> bool:
        """Forget all but the mount itself, and that it is locked; tell whether so."""

    def unlock(self) -> bool:
        """Forget that it is locked; tell whether so."""

    def start_unwrapper(self) -> socket.socket | None:
        """Have a short-lived process started that may have identities in its memory.

        Returns:
            the socket to it, which ends early if there is no such process; None where
            nobody starts one.
        """

    def reload(self) -> str | None:
        """Have a new version of the program go on, once this process has ended.

        Returns:
            why that is not possible, if so.
        """

    def keep(
        self,
        name: str,
        data: bytes | memoryview = b"",
        fds: Sequence[int] = (),
        secret: bytes | memoryview = b"",
    ) -> None:
        """Keep a record, in place of the one of that name; descriptors are copied.

        What comes after it, comes after it wherever it is kept, but for PASSING ones.
        """

    def drop(self, name: str) -> None:
        """Forget a record, if there is one of that name."""

    def take(self, prefix: str) -> Iterator[tuple[str, Record]]:
        """Yield what was inherited: the names without the prefix, and the records.

        Each record is the caller's from then on; it stays kept under its name.
        """


class NothingKept:
    """Keeps nothing: the process ends for good."""

    keeper = None
    is_successor = predecessor_crashed = is_locked = False
    reason = ""

    def lock(self) -> bool:
        """Tell that nothing is kept that could be locked."""
        return False

    def unlock(self) -> bool:
        """Tell that nothing is locked."""
        return False

    def start_unwrapper(self) -> socket.socket | None:
        """Tell that nobody starts one."""
        return None

    def reload(self) -> str | None:
        """Tell that nobody would go on."""
        return "this engine cannot go on in another process"

    def keep(
        self,
        name: str,
        data: bytes | memoryview = b"",
        fds: Sequence[int] = (),
        secret: bytes | memoryview = b"",
    ) -> None:
        """Do nothing."""

    def drop(self, name: str) -> None:
        """Do nothing."""

    def take(self, prefix: str) -> Iterator[tuple[str, Record]]:  # noqa: ARG002
        """Yield nothing."""
        yield from ()
