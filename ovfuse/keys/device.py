"""A secret of this device: what other recipients of a model do not have.

32 random bytes, drawn at first use, in an age file for an own identity. Who opens a
model as another recipient knows the model key, but not this; compiled blobs are
encrypted under both. Whoever may write to the directory could plant a secret of his
own, so that it must be the account's alone.
"""

import hashlib
import os
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from ovfuse.errors import KeyFileError
from ovfuse.keys.files import create_private, read_secret
from ovfuse.quote import quoted
from ovfuse.sealed.wrapping import Identity, Recipient, unwrap, wrap
from ovfuse.secret import Secret

__all__ = ["DeviceSecret"]

_SECRET_SIZE: Final = 32


class DeviceSecret:
    """Where the secret of one account on this device is.

    Args:
        directory: of the file.
        identities: at hand; the first that says its recipient, as age's own do, is the
            one that the secret is for.

    Raises:
        KeyFileError: there is no such identity.
    """

    def __init__(self, directory: Path, identities: Sequence[Identity]) -> None:
        self._identities = list(identities)
        self._recipient = _first_recipient(identities)
        name = hashlib.sha256(self._recipient.canonical.encode("ascii")).hexdigest()
        self._path: Final = directory / f"device-{name[:32]}.age"

    def find(self) -> Secret | None:
        """Return the secret, if there is one; the caller wipes it.

        Raises:
            KeyFileError: the file must not be used, or nobody can open it.
        """
        try:
            _check_directory(self._path.parent)
            data = read_secret(self._path)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise KeyFileError(f"{quoted(self._path)}: {error.strerror}") from None
        secret = unwrap(data, self._identities)
        if secret is None:
            raise KeyFileError(
                f"{quoted(self._path)} is damaged",
                hint="remove it, and what was compiled is compiled again",
            )
        return secret

    def find_or_make(self) -> Secret:
        """Return the secret, drawn now if there is none; the caller wipes it.

        Raises:
            KeyFileError: it cannot be written, or as `find`.
        """
        found = self.find() or self._make() or self.find()
        if found is None:
            raise KeyFileError(f"{quoted(self._path)} was removed just now")
        return found

    def _make(self) -> Secret | None:
        """Draw and write a secret; None if another process was faster."""
        secret = Secret.random(_SECRET_SIZE)
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            create_private(self._path, wrap(secret, self._recipient))
        except OSError as error:
            raise KeyFileError(f"{quoted(self._path)}: {error.strerror}") from None
        except KeyFileError:
            secret.wipe()
            return None
        return secret


def _check_directory(path: Path) -> None:
    status = path.stat()
    if status.st_uid not in (0, os.geteuid()):
        raise KeyFileError(f"{quoted(path)} belongs to another user")
    if stat.S_IMODE(status.st_mode) & 0o022:
        raise KeyFileError(
            f"{quoted(path)} can be written by others than its owner",
            hint=f"chmod 700 {quoted(path)}",
        )


def _first_recipient(identities: Sequence[Identity]) -> Recipient:
    for identity in identities:
        if identity.recipient is not None:
            return identity.recipient
    raise KeyFileError(
        "a secret of this device needs an age identity of this account",
        hint="make one with: ovfuse keygen",
    )
