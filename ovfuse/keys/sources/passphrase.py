"""`passphrase:SOURCE`: what opens models that were sealed with `encrypt -p`."""

from dataclasses import dataclass
from pathlib import Path

from ovfuse.errors import KeyFileError
from ovfuse.keys.sources.contract import Source
from ovfuse.quote import quoted
from ovfuse.secret import Secret

__all__ = ["PassphraseSource", "TerminalSource"]


@dataclass(frozen=True, slots=True)
class PassphraseSource(Source):
    """See `Source`.

    Args:
        source: of its bytes.
    """

    source: Source

    @property
    def words(self) -> str:
        """What `parse_source` makes an equal one of."""
        return f"passphrase:{self.source.words}"

    @property
    def label(self) -> str:
        """Which one it is, for messages."""
        return f"passphrase:{self.source.label}"

    @property
    def file(self) -> Path | None:
        """The file that it is in, on a disk."""
        return self.source.file

    @property
    def seconds(self) -> float:
        """How long `read` may take; see `Source`."""
        return self.source.seconds

    @property
    def is_here_only(self) -> bool:
        """Whether no other process can read it."""
        return self.source.is_here_only

    def seen_from(self, directory: Path) -> Source:
        """Return the same, for who is not in that directory any more."""
        return PassphraseSource(self.source.seen_from(directory))

    def held(self) -> tuple[Source, tuple[int, ...]]:
        """Return one that can be read again; see `Source.held`."""
        source, descriptors = self.source.held()
        return PassphraseSource(source), descriptors

    def read(self) -> Secret:
        """Return what is there now; see `Source.read`."""
        return self.source.read()

    def text(self) -> str:
        """Return it as a passphrase: without the end of its line.

        Raises:
            KeyFileError: it is empty or no text, or as `read`.
            OSError: as `read`.
        """
        with self.read() as secret:
            data = bytes(secret.view)
        data = data.removesuffix(b"\n").removesuffix(b"\r")
        if not data:
            raise KeyFileError(f"{quoted(self.label)} is empty")
        try:
            return data.decode()
        except UnicodeDecodeError:
            raise KeyFileError(f"{quoted(self.label)} is not UTF-8 text") from None


@dataclass(frozen=True, slots=True)
class TerminalSource(Source):
    """`passphrase:` alone: whoever sits at the terminal is asked; see `Source`."""

    @property
    def words(self) -> str:
        """What `parse_source` makes an equal one of."""
        return "passphrase:"

    def read(self) -> Secret:
        """Raise KeyFileError: only a command has a terminal."""
        raise KeyFileError("a passphrase that is typed is no identity")
