"""The own keys, made at first use: an age identity and a signing key.

The files are $XDG_CONFIG_HOME/ovfuse/identity.txt and signing_key (OpenSSH's format);
the public half of the signing key goes into the own trusted set.
"""

import getpass
import os
import socket
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Final

from ovfuse.errors import KeyFileError
from ovfuse.keys.files import create_private, read_secret
from ovfuse.keys.identities import IDENTITY_NAME, read_source
from ovfuse.keys.places import user_directory
from ovfuse.keys.sources import Source, parse_source
from ovfuse.keys.sources.file import FileSource
from ovfuse.keys.trusted import add_trusted
from ovfuse.quote import printable, quoted
from ovfuse.sealed.signing import PublicKey, SigningKey
from ovfuse.sealed.wrapping import Identity

__all__ = [
    "OwnFile",
    "own_identities",
    "own_signing_key",
    "read_signing_key",
    "write_identity",
]

_SIGNING_KEY_NAME: Final = "signing_key"


@dataclass(frozen=True, slots=True)
class OwnFile:
    """A key file of the user's, and whether it was made just now.

    Attributes:
        path: of it, or another source of an identity, as it is called.
        created: just now.
    """

    path: Path
    created: bool


def own_identities() -> tuple[list[Identity], OwnFile]:
    """Return the own identities: $OVFUSE_IDENTITY, or the file made at first use.

    Raises:
        KeyFileError: the source gives none, or the file cannot be made.
        UsageError: the variable names no source.
    """
    if named := os.environ.get("OVFUSE_IDENTITY"):
        source, created = parse_source(named), False
    else:
        path = _own_directory() / IDENTITY_NAME
        source, created = FileSource(path), _create_missing(path, write_identity)
    return _identities_of(source), OwnFile(Path(source.label), created)


def own_signing_key() -> tuple[SigningKey, OwnFile]:
    """Return the own signing key, made and trusted at first use.

    Raises:
        KeyFileError: the file cannot be read or made.
    """
    path = _own_directory() / _SIGNING_KEY_NAME
    created = _create_missing(path, _write_signing_key)
    key = read_signing_key(path)
    public = PublicKey(key.public.raw, _comment())
    _create_missing(path.with_name(f"{path.name}.pub"), partial(_publish, public))
    return key, OwnFile(path, created)


def read_signing_key(path: Path) -> SigningKey:
    """Return the signing key in a file.

    Raises:
        KeyFileError: it cannot be read, must not be used, or is another kind.
    """
    data = _read(path)
    try:
        return SigningKey.from_openssh(data)
    except KeyFileError as error:
        raise KeyFileError(f"{quoted(path)}: {error.message}") from None


def write_identity(path: Path) -> None:
    """Write a new identity file; an existing one is never replaced.

    Raises:
        KeyFileError: it exists.
        OSError: it cannot be written.
    """
    line = Identity.generate()
    recipient = Identity.from_age(line).recipient
    made = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    public = recipient.canonical if recipient else ""
    text = f"# created: {made}\n# public key: {public}\n{line}\n"
    create_private(path, text.encode())


def _write_signing_key(path: Path) -> None:
    create_private(path, SigningKey.generate(_comment()).to_openssh())


def _publish(key: PublicKey, path: Path) -> None:
    """Trust the own key, then write its public half: once that is there, all is."""
    add_trusted(key)
    create_private(path, f"{key.line}\n".encode(), mode=0o644)


def _comment() -> str:
    try:
        user = getpass.getuser()
    except (OSError, KeyError):  # no entry in the password database
        user = str(os.getuid())
    return printable(f"{user}@{socket.gethostname()}")  # one line of a .pub file


def _own_directory() -> Path:
    directory = user_directory()
    if directory is None:
        raise KeyFileError("there is no home directory to keep keys in")
    return directory


def _create_missing(path: Path, create: Callable[[Path], None]) -> bool:
    try:
        if path.exists():
            return False
        create(path)
    except OSError as error:
        raise KeyFileError(f"{quoted(path)}: {error.strerror}") from None
    return True


def _identities_of(source: Source) -> list[Identity]:
    try:
        return read_source(source)
    except OSError as error:
        raise KeyFileError(f"{quoted(source.label)}: {error.strerror}") from None


def _read(path: Path) -> bytes:
    try:
        return read_secret(path)
    except OSError as error:
        raise KeyFileError(f"{quoted(path)}: {error.strerror}") from None
