"""What every source of an identity or a passphrase can do."""

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Final

from ovfuse.secret import Secret

__all__ = ["MAX_SIZE", "Source"]

MAX_SIZE: Final = 64 * 1024
"""Of what a source gives, in bytes."""


class Source(ABC):
    """One place; what is not overridden here is true of most."""

    @property
    @abstractmethod
    def words(self) -> str:
        """What `parse_source` makes an equal one of."""

    @property
    def label(self) -> str:
        """Which one it is, for messages: nothing that is secret."""
        return self.words

    @property
    def file(self) -> Path | None:
        """The file that whoever has the disk could take the secret from."""
        return None

    @property
    def seconds(self) -> float:
        """How long `read` may take at most, beside the time that a disk needs."""
        return 0.0

    @property
    def is_here_only(self) -> bool:
        """Whether no other process can read it."""
        return False

    def seen_from(self, directory: Path) -> "Source":  # noqa: ARG002 - most are absolute
        """Return the same, for who is not in that directory any more."""
        return self

    def held(self) -> "tuple[Source, tuple[int, ...]]":
        """Return one that can be read again, and descriptors to keep open for it.

        Raises:
            KeyFileError: it can be read only once, or not now.
        """
        return self, ()

    @abstractmethod
    def read(self) -> Secret:
        """Return what is there now; the caller wipes it.

        Raises:
            KeyFileError: nothing is to be had; names the source, and no byte of a
                secret.
            OSError: a file cannot be opened.
        """
