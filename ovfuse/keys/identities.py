"""Identities: which sources are looked at, and what they give.

With explicit sources only those; else $OVFUSE_IDENTITY (a source), systemd's
credential, the user's configuration, the system's. Every error lists where was looked.
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from ovfuse.errors import KeyFileError, UsageError
from ovfuse.keys.places import SYSTEM_DIRECTORY, user_directory
from ovfuse.keys.sources import Source, parse_source
from ovfuse.keys.sources.file import FileSource
from ovfuse.keys.sources.passphrase import PassphraseSource, TerminalSource
from ovfuse.quote import quoted
from ovfuse.sealed.wrapping import Identity

__all__ = [
    "IDENTITY_NAME",
    "FoundIdentities",
    "SourceWords",
    "find_identities",
    "parse_identities",
    "read_source",
    "seconds_to_find",
]

IDENTITY_NAME: Final = "identity.txt"
_VARIABLE: Final = "OVFUSE_IDENTITY"
_CREDENTIAL_NAME: Final = "ovfuse.identity"
_PEM_START: Final = b"-----BEGIN "
_ENCRYPTED_STARTS: Final = (b"age-encryption.org/", b"-----BEGIN AGE ENCRYPTED FILE")

SourceWords = str | os.PathLike[str]
"""Text as behind `-i`; a path object always names a file."""


@dataclass(frozen=True, slots=True)
class FoundIdentities:
    """The identities at hand.

    Attributes:
        identities: in the order in which they were found.
        places: that were looked at, for messages.
        files: that they came from, of those that are on a disk.
        passphrase: tried where no identity opens a model, and then nobody is asked.
        asks_once: whether a passphrase that is typed is for all models.
    """

    identities: list[Identity]
    places: tuple[str, ...] = ()
    files: tuple[Path, ...] = ()
    passphrase: str | None = field(default=None, repr=False)
    asks_once: bool = False


def find_identities(explicit: Sequence[SourceWords] = ()) -> FoundIdentities:
    """Read all identities that may be used.

    Raises:
        KeyFileError: an explicit source gives none, or a file in any place must not
            be used.
        UsageError: a source is named wrongly.
    """
    required = _required(explicit)
    sources = required if explicit else [*required, *_default_places()]
    found: list[Identity] = []
    notes = []
    files = []
    passphrase = None
    for source in sources:
        try:
            match source:
                case TerminalSource():
                    pass
                case PassphraseSource():
                    passphrase = source.text()
                case _:
                    found += read_source(source)
        except OSError as error:
            reason = error.strerror or "cannot be read"
            if source in required:
                raise _not_there(source, reason) from None
            notes.append(f"{quoted(source.label)} ({reason})")
            continue
        notes.append(quoted(source.label))
        if source.file is not None:
            files.append(source.file)
    asks_once = any(isinstance(source, TerminalSource) for source in sources)
    return FoundIdentities(found, tuple(notes), tuple(files), passphrase, asks_once)


def seconds_to_find(explicit: Sequence[SourceWords] = ()) -> float:
    """Return how long the sources may take, beside the time that a disk needs.

    Raises:
        UsageError: a source is named wrongly.
    """
    return sum(source.seconds for source in _required(explicit))


def read_source(source: Source) -> list[Identity]:
    """Return the identities that a source gives now.

    Raises:
        KeyFileError: it gives none.
        OSError: a file cannot be opened.
    """
    with source.read() as secret:
        return parse_identities(bytes(secret.view), source.label)


def _required(explicit: Sequence[SourceWords]) -> list[Source]:
    """Return the sources that somebody named."""
    named = os.environ.get(_VARIABLE)
    words = explicit or ([named] if named else [])
    sources = [parse_source(word) for word in words]
    passphrases = [
        s for s in sources if isinstance(s, PassphraseSource | TerminalSource)
    ]
    if len(passphrases) > 1:
        raise UsageError("more than one passphrase is named")
    return sources


def _default_places() -> Iterator[Source]:
    if credentials := os.environ.get("CREDENTIALS_DIRECTORY"):
        yield FileSource(Path(credentials) / _CREDENTIAL_NAME, is_credential=True)
    if (directory := user_directory()) is not None:
        yield FileSource(directory / IDENTITY_NAME)
    yield FileSource(SYSTEM_DIRECTORY / IDENTITY_NAME)


def _not_there(source: Source, reason: str) -> KeyFileError:
    kind, colon, _ = source.label.partition(":")
    is_kind = bool(colon) and kind.isalnum()
    hint = f"{kind}: is no kind of source; see docs/keys.md" if is_kind else ""
    return KeyFileError(f"{quoted(source.label)}: {reason}", hint=hint)


def parse_identities(data: bytes, where: SourceWords) -> list[Identity]:
    """Return the identities in an age identity file or an OpenSSH private key.

    Raises:
        KeyFileError: it holds none, or something else; `where` names it.
    """
    if data.startswith(_ENCRYPTED_STARTS):
        raise KeyFileError(
            f"{quoted(where)} is encrypted itself",
            hint="age -d FILE | ovfuse ... -i fd:0",
        )
    try:
        if data.startswith(_PEM_START):
            return [Identity.from_openssh(data)]
        lines = [line.strip() for line in data.decode().splitlines()]
        identities = [
            Identity.from_age(line) for line in lines if line and line[0] != "#"
        ]
    except UnicodeDecodeError:
        raise KeyFileError(f"{quoted(where)} is not an identity file") from None
    except KeyFileError as error:
        raise KeyFileError(f"{quoted(where)}: {error.message}") from None
    if not identities:
        raise KeyFileError(f"{quoted(where)} holds no identity")
    return identities
