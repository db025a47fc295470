"""What is served of a mount that is locked: a root directory that nobody may look into.

Used by the lifecycle in place of the view, which would need keys. Any thread.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, NoReturn, Self

from ovfuse.errors import NoUsableKeyError, UsageError
from ovfuse.view.contract import Change, Handle, ModelStatus, Node

__all__ = ["LockedView", "Unlocking"]


@dataclass(frozen=True, slots=True)
class Unlocking:
    """What somebody gives to unlock a mount.

    Attributes:
        identities: sources; none: as when it was mounted.
        passphrase: to try, if there is one.
    """

    identities: tuple[str, ...]
    passphrase: str | None = field(repr=False)

    @classmethod
    def parse(cls, request: dict[str, Any]) -> Self:
        """Return what a request has of it.

        Raises:
            UsageError: it is of another form.
        """
        identities = request.get("identities", [])
        passphrase = request.get("passphrase")
        is_one = isinstance(identities, list) and isinstance(passphrase, str | None)
        if not is_one or not all(map(_is_path, identities)):
            raise UsageError("no such request")
        return cls(tuple(identities), passphrase)


def _is_path(value: object) -> bool:
    try:
        return isinstance(value, str) and 0 not in os.fsencode(value)
    except UnicodeEncodeError:
        return False


@dataclass(frozen=True, slots=True)
class _Root:
    """The mountpoint's directory; its link count says that nothing is known."""

    number: int = 1
    is_directory: bool = True
    size: int = 0
    mtime_ns: int = 0
    subdirectories: int = -1


class LockedView:
    """See `ovfuse.view.contract.View`."""

    def __init__(self) -> None:
        self._root = _Root()

    @property
    def root(self) -> Node:
        """The mountpoint's directory."""
        return self._root

    def lookup(self, parent: Node, name: bytes) -> Node:  # noqa: ARG002
        """Raise NoUsableKeyError."""
        _refuse()

    def children(self, node: Node) -> Sequence[tuple[bytes, Node]]:  # noqa: ARG002
        """Raise NoUsableKeyError."""
        _refuse()

    def open(self, node: Node) -> Handle:  # noqa: ARG002
        """Raise NoUsableKeyError."""
        _refuse()

    def reopen(self, node: Node) -> Handle:  # noqa: ARG002
        """Raise NoUsableKeyError."""
        _refuse()

    def every_node(self) -> Iterator[tuple[int, bytes, Node]]:
        """Yield nothing."""
        yield from ()

    def retain(self, node: Node) -> None:
        """Do nothing."""

    def release(self, node: Node) -> None:
        """Do nothing."""

    def is_gone(self, node: Node) -> bool:  # noqa: ARG002
        """Return False: nothing is closed that may come back."""
        return False

    def follow(
        self,
        tell: Callable[[Sequence[Change]], None],  # noqa: ARG002
    ) -> AbstractContextManager[None]:
        """Follow nothing."""
        return nullcontext()

    def totals(self) -> tuple[int, int]:
        """Return nothing at all."""
        return 0, 0

    def status(self) -> list[ModelStatus]:
        """Return nothing: without keys, nothing is known."""
        return []

    def close(self) -> None:
        """Do nothing."""


def _refuse() -> NoReturn:
    raise NoUsableKeyError("the mount is locked")
