"""Identities from files: which places are looked at, and what is in a file.

With explicit places only those; else $OVFUSE_IDENTITY (a path), systemd's credential,
the user's configuration, the system's. Every error lists where was looked.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ovfuse.errors import KeyFileError
from ovfuse.keys.files import read_secret
from ovfuse.keys.places import SYSTEM_DIRECTORY, user_directory
from ovfuse.quote import quoted
from ovfuse.sealed.wrapping import Identity

__all__ = ["IDENTITY_NAME", "FoundIdentities", "find_identities", "parse_identities"]

IDENTITY_NAME: Final = "identity.txt"
_CREDENTIAL_NAME: Final = "ovfuse.identity"
_OPENSSH_START: Final = b"-----BEGIN "


@dataclass(frozen=True, slots=True)
class FoundIdentities:
    """The identities at hand.

    Attributes:
        identities: in the order in which they were found.
        places: that were looked at, for messages.
        files: that they came from, without systemd's credential.
    """

    identities: list[Identity]
    places: tuple[str, ...] = ()
    files: tuple[Path, ...] = ()


@dataclass(frozen=True, slots=True)
class _Place:
    path: Path
    required: bool = False
    check_owner: bool = True


def find_identities(explicit: Sequence[Path] = ()) -> FoundIdentities:
    """Read all identities that may be used.

    Raises:
        KeyFileError: an explicit place cannot be read, or a file in any place must
            not be used.
    """
    places = [_Place(path, required=True) for path in explicit] or _default_places()
    found: list[Identity] = []
    notes = []
    files = []
    for place in places:
        try:
            data = read_secret(place.path, check_owner=place.check_owner)
        except OSError as error:
            reason = error.strerror or "cannot be read"
            if place.required:
                raise KeyFileError(f"{quoted(place.path)}: {reason}") from None
            notes.append(f"{quoted(place.path)} ({reason})")
            continue
        found += parse_identities(data, place.path)
        notes.append(quoted(place.path))
        if place.check_owner:
            files.append(place.path)
    return FoundIdentities(found, tuple(notes), tuple(files))


def _default_places() -> list[_Place]:
    places = []
    if named := os.environ.get("OVFUSE_IDENTITY"):
        places.append(_Place(Path(named), required=True))
    if credentials := os.environ.get("CREDENTIALS_DIRECTORY"):
        path = Path(credentials) / _CREDENTIAL_NAME
        places.append(_Place(path, check_owner=False))
    if (directory := user_directory()) is not None:
        places.append(_Place(directory / IDENTITY_NAME))
    places.append(_Place(SYSTEM_DIRECTORY / IDENTITY_NAME))
    return places


def parse_identities(data: bytes, path: Path) -> list[Identity]:
    """Return the identities in an age identity file or an OpenSSH private key.

    Raises:
        KeyFileError: it holds none, or something else; `path` names it.
    """
    try:
        if data.startswith(_OPENSSH_START):
            return [Identity.from_openssh(data)]
        lines = [line.strip() for line in data.decode().splitlines()]
        identities = [
            Identity.from_age(line) for line in lines if line and line[0] != "#"
        ]
    except UnicodeDecodeError:
        raise KeyFileError(f"{quoted(path)} is not an identity file") from None
    except KeyFileError as error:
        raise KeyFileError(f"{quoted(path)}: {error.message}") from None
    if not identities:
        raise KeyFileError(f"{quoted(path)} holds no identity")
    return identities
