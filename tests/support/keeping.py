"""A keeper in this process: what one object leaves behind, another one takes over."""

import os
import socket
from collections.abc import Iterator, Sequence

from ovfuse.keeping import Record

__all__ = ["Kept"]


class Kept:
    """See `ovfuse.keeping.Keeping`; `successor` is what a daemon started later has.

    Attributes:
        records: bytes, descriptors and secret by name.
        names: of the records that were kept and, after a minus, dropped.
    """

    keeper: int | None = None
    is_locked = False
    reason = ""

    def __init__(self, *, is_successor: bool = False, crashed: bool = False) -> None:
        self.records: dict[str, tuple[bytes, list[int], bytes]] = {}
        self.names: list[str] = []
        self.is_successor = is_successor
        self.predecessor_crashed = crashed

    def lock(self) -> bool:
        return False

    def unlock(self) -> bool:
        return False

    def start_unwrapper(self) -> socket.socket | None:
        return None

    def reload(self) -> str | None:
        return "nobody would go on"

    def keep(
        self,
        name: str,
        data: bytes | memoryview = b"",
        fds: Sequence[int] = (),
        secret: bytes | memoryview = b"",
    ) -> None:
        self._forget(name)
        self.names.append(name)
        copies = [os.dup(fd) for fd in fds]
        self.records[name] = (bytes(data), copies, bytes(secret))

    def drop(self, name: str) -> None:
        self.names.append(f"-{name}")
        self._forget(name)

    def take(self, prefix: str) -> Iterator[tuple[str, Record]]:
        if not self.is_successor:
            return
        for name, (data, fds, secret) in tuple(self.records.items()):
            if name.startswith(prefix):
                record = Record(data, [os.dup(fd) for fd in fds], secret)
                yield name.removeprefix(prefix), record

    def successor(self, *, crashed: bool = False) -> "Kept":
        """Return the same records, for who goes on."""
        found = Kept(is_successor=True, crashed=crashed)
        found.records = self.records
        return found

    def restarted(self) -> "Kept":
        """Return the same records without keys, for who goes on after a restart."""
        found = Kept(is_successor=True)
        for name, (data, fds, _) in self.records.items():
            found.records[name] = (data, [os.dup(fd) for fd in fds], b"")
        return found

    def close(self) -> None:
        """Close all descriptors."""
        for name in tuple(self.records):
            self._forget(name)

    def _forget(self, name: str) -> None:
        for fd in self.records.pop(name, (b"", [], b""))[1]:
            os.close(fd)
