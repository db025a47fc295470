"""Trusted publishers: one ssh-ed25519 public key per `.pub` file.

The user's own set and the system's add up; --verify-key adds more. Nothing inside
a cipherdir has a say in it.
"""

import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ovfuse.errors import KeyFileError
from ovfuse.keys.files import create_private, read_public
from ovfuse.keys.places import SYSTEM_DIRECTORY, user_directory
from ovfuse.quote import quoted
from ovfuse.sealed.signing import PublicKey

__all__ = [
    "TrustedKey",
    "add_trusted",
    "list_trusted",
    "parse_public_keys",
    "remove_trusted",
    "trusted_keys",
]

_log = logging.getLogger(__name__)

_DIRECTORY_NAME: Final = "trusted"


@dataclass(frozen=True, slots=True)
class TrustedKey:
    """A key of a trusted set, and the file that says so."""

    key: PublicKey
    path: Path


def trusted_directory(*, system: bool) -> Path:
    """Return the user's or the system's directory of trusted keys.

    Raises:
        KeyFileError: there is no home.
    """
    base = SYSTEM_DIRECTORY if system else user_directory()
    if base is None:
        raise KeyFileError("there is no home directory for trusted keys")
    return base / _DIRECTORY_NAME


def parse_public_keys(path: Path, *, check_owner: bool = True) -> list[PublicKey]:
    """Return the keys in a `.pub` file, one per line.

    Raises:
        KeyFileError: it cannot be read, must not be used, or holds something else.
    """
    try:
        lines = read_public(path, check_owner=check_owner).splitlines()
    except OSError as error:
        raise KeyFileError(f"{quoted(path)}: {error.strerror}") from None
    try:
        keys = [
            PublicKey.from_line(line)
            for line in lines
            if line.strip() and not line.lstrip().startswith("#")
        ]
    except KeyFileError as error:
        raise KeyFileError(f"{quoted(path)}: {error.message}") from None
    if not keys:
        raise KeyFileError(f"{quoted(path)} holds no public key")
    return keys


def list_trusted() -> list[TrustedKey]:
    """Return the user's and the system's trusted keys.

    Raises:
        KeyFileError: a file in a trusted set cannot be read or must not be used.
    """
    return [
        TrustedKey(key, path) for path in _files() for key in parse_public_keys(path)
    ]


def _files() -> Iterator[Path]:
    for base in (user_directory(), SYSTEM_DIRECTORY):
        if base is None:
            continue
        directory = base / _DIRECTORY_NAME
        try:
            names = sorted(os.listdir(directory))
        except FileNotFoundError:
            continue
        except OSError as error:  # another user's home, say: nobody in it is trusted
            _log.warning("skipped %s: %s", quoted(directory), error.strerror)
            continue
        yield from (directory / name for name in names if name.endswith(".pub"))


def trusted_keys(verify_keys: Sequence[Path] = ()) -> frozenset[PublicKey]:
    """Return every key that is trusted now, `verify_keys` (files) included.

    Raises:
        KeyFileError: as `list_trusted`.
    """
    keys = {trusted.key for trusted in list_trusted()}
    for path in verify_keys:
        keys.update(parse_public_keys(path, check_owner=False))
    return frozenset(keys)


def add_trusted(key: PublicKey, *, system: bool = False) -> Path:
    """Trust a key from now on; return the file that says so.

    Raises:
        KeyFileError: it cannot be written.
    """
    path = trusted_directory(system=system) / f"{key.raw.hex()[:32]}.pub"
    try:
        if not path.exists():
            create_private(path, f"{key.line}\n".encode(), mode=0o644)
    except OSError as error:
        raise KeyFileError(f"{quoted(path)}: {error.strerror}") from None
    return path


def remove_trusted(fingerprint: str) -> list[Path]:
    """Stop trusting the key of this fingerprint; return the files removed.

    Raises:
        KeyFileError: it is not in a trusted set, or cannot be removed.
    """
    trusted = list_trusted()
    found = [t.path for t in trusted if t.key.fingerprint == fingerprint]
    found = list(dict.fromkeys(found))
    if not found:
        raise KeyFileError(f"{quoted(fingerprint)} is not trusted")
    for other in trusted:
        if other.path in found and other.key.fingerprint != fingerprint:
            raise KeyFileError(f"{quoted(other.path)} holds other keys too; edit it")
    for path in found:
        try:
            path.unlink()
        except OSError as error:
            raise KeyFileError(f"{quoted(path)}: {error.strerror}") from None
    return found
