"""Publishers' keys: ordinary ssh-ed25519 keys, raw Ed25519 signatures (RFC 8032).

`PublicKey` and `SigningKey` are defined here only. Keys are compared by their 32
bytes; comments are for people.
"""

import base64
import binascii
import hashlib
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Final, Self

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import (
    Ed25519PrivateKey,
    Ed25519PublicKey,
)
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_ssh_private_key,
)

from ovfuse.errors import KeyFileError
from ovfuse.quote import printable

__all__ = ["PublicKey", "SigningKey", "is_trusted"]

_KEY_TYPE: Final = b"ssh-ed25519"
_BLOB_PREFIX: Final = b"\0\0\0\x0b" + _KEY_TYPE + b"\0\0\0\x20"  # RFC 8709
_RAW_SIZE: Final = 32


@dataclass(frozen=True, slots=True)
class PublicKey:
    """An ssh-ed25519 public key: 32 raw bytes and a comment."""

    raw: bytes
    comment: str = field(default="", compare=False)

    @classmethod
    def from_blob(cls, blob: bytes, comment: str = "") -> Self:
        """Read an SSH public-key blob.

        Raises:
            KeyFileError: not of type ssh-ed25519, or malformed.
        """
        if len(blob) != len(_BLOB_PREFIX) + _RAW_SIZE or blob[:-32] != _BLOB_PREFIX:
            raise KeyFileError("not an ssh-ed25519 public key")
        return cls(blob[-_RAW_SIZE:], comment)

    @classmethod
    def from_line(cls, line: str) -> Self:
        """Read a line of a `.pub` file: type, base64, optional comment.

        Raises:
            KeyFileError: not of type ssh-ed25519, or malformed.
        """
        parts = line.strip().split(None, 2)
        if len(parts) < 2 or parts[0] != _KEY_TYPE.decode():  # noqa: PLR2004 - type and blob
            raise KeyFileError("not an ssh-ed25519 public key")
        try:
            blob = base64.b64decode(parts[1], validate=True)
        except (binascii.Error, ValueError):
            raise KeyFileError("not an ssh-ed25519 public key") from None
        return cls.from_blob(blob, printable(parts[2]) if parts[2:] else "")

    @property
    def blob(self) -> bytes:
        """The SSH public-key blob."""
        return _BLOB_PREFIX + self.raw

    @property
    def line(self) -> str:
        """The line of a `.pub` file, without line feed."""
        text = base64.b64encode(self.blob).decode()
        return f"{_KEY_TYPE.decode()} {text} {self.comment}".rstrip()

    @property
    def fingerprint(self) -> str:
        """`SHA256:...` as `ssh-keygen -l` prints it."""
        digest = hashlib.sha256(self.blob).digest()
        return "SHA256:" + base64.b64encode(digest).decode().rstrip("=")

    def verifies(self, signature: bytes, message: bytes) -> bool:
        """Tell whether `signature` (64 bytes) over `message` is by this key."""
        try:
            Ed25519PublicKey.from_public_bytes(self.raw).verify(signature, message)
        except (InvalidSignature, ValueError, UnsupportedAlgorithm):
            return False
        return True


class SigningKey:
    """The private half. The library owns its bytes: they cannot be wiped."""

    __slots__ = ("_private", "public")

    def __init__(self, private: Ed25519PrivateKey, comment: str = "") -> None:
        self._private = private
        self.public = PublicKey(private.public_key().public_bytes_raw(), comment)

    @classmethod
    def generate(cls, comment: str = "") -> Self:
        """Draw a new key."""
        return cls(Ed25519PrivateKey.generate(), comment)

    @classmethod
    def from_openssh(cls, data: bytes, comment: str = "") -> Self:
        """Read an unencrypted private key file as ssh-keygen writes it.

        Raises:
            KeyFileError: another type, protected by a passphrase, or malformed.
        """
        try:
            private = load_ssh_private_key(data, None)
        except TypeError:
            raise KeyFileError("the signing key is protected by a passphrase") from None
        except (ValueError, UnsupportedAlgorithm):
            raise KeyFileError("not an OpenSSH private key") from None
        if not isinstance(private, Ed25519PrivateKey):
            raise KeyFileError("the signing key is not of type ssh-ed25519")
        return cls(private, comment)

    def to_openssh(self) -> bytes:
        """Return the private key file."""
        return self._private.private_bytes(
            Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()
        )

    def sign(self, message: bytes) -> bytes:
        """Return the 64-byte signature over `message`."""
        return self._private.sign(message)

    def __repr__(self) -> str:
        return f"<SigningKey {self.public.fingerprint}>"


def is_trusted(signers: Collection[PublicKey], trusted: Collection[PublicKey]) -> bool:
    """Tell whether one of the keys that verified is one of the trusted."""
    return any(signer in trusted for signer in signers)
