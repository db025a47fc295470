"""The model key in age files: wrapped for recipients, unwrapped by identities.

`Recipient` and `Identity` are defined here only; where they come from is keys/.
Nothing in a key file is trusted: what it yields is a candidate for a key.
"""

import contextlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final, Self

import pyrage
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_ssh_private_key,
    load_ssh_public_key,
)

from ovfuse.errors import DamagedError, KeyFileError
from ovfuse.sealed import layout
from ovfuse.sealed.passphrase import open_for_passphrase, seal_for_passphrase
from ovfuse.secret import Secret

__all__ = [
    "PASSPHRASE",
    "Identity",
    "Recipient",
    "is_for_passphrase",
    "stanza_types",
    "unwrap",
    "unwrap_with_passphrase",
    "wrap",
    "wrap_with_passphrase",
]

_log = logging.getLogger(__name__)

PASSPHRASE: Final = "passphrase"  # noqa: S105 - a name, not a secret
"""The canonical recipient string of whoever knows the passphrase."""

_INTRO: Final = "age-encryption.org/v1"
_SSH_TYPES: Final = ("ssh-ed25519", "ssh-rsa")
_PANIC_MODULE: Final = "pyo3_runtime"


class _PanicError(Exception):
    """The library's native code gave up, which it does on some malformed keys."""


@contextlib.contextmanager
def _no_panic() -> Iterator[None]:
    """Turn a panic, which is no `Exception` and would end the process, into one.

    Raises:
        _PanicError: instead of it.
    """
    try:
        yield
    except BaseException as error:
        if type(error).__module__ == _PANIC_MODULE:
            raise _PanicError from None
        raise


def _canonical_ssh_key(line: str) -> str:
    """Return key type and base64 blob, if there is one way only to write the key.

    The library takes no notice of what follows a key, base64 or not.

    Raises:
        ValueError, UnsupportedAlgorithm: not a key, or written in another way.
    """
    canonical = " ".join(line.split()[:2])
    key = load_ssh_public_key(canonical.encode("ascii"))
    if key.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode() != canonical:
        raise ValueError("not canonical")
    return canonical


@dataclass(frozen=True, slots=True)
class Recipient:
    """Who may open a sealing, by the canonical string of docs/format.md."""

    canonical: str
    age: object = field(compare=False, repr=False)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `age1...`, or an SSH public key line, whose comment is dropped.

        Raises:
            KeyFileError: not a recipient that can be used.
        """
        text = text.strip()
        try:
            with _no_panic():
                if text.split(" ", 1)[0] in _SSH_TYPES:
                    canonical = _canonical_ssh_key(text)
                    return cls(canonical, pyrage.ssh.Recipient.from_str(canonical))
                canonical = text.lower()
                return cls(canonical, pyrage.x25519.Recipient.from_str(canonical))
        except (pyrage.RecipientError, _PanicError, ValueError, UnsupportedAlgorithm):
            raise KeyFileError(
                "not a recipient",
                hint="a recipient is age1... or an ssh-ed25519 or ssh-rsa public key",
            ) from None


@dataclass(frozen=True, slots=True)
class Identity:
    """A secret half, held by the library; `recipient` is None for SSH keys."""

    recipient: Recipient | None
    age: object = field(compare=False, repr=False)

    @classmethod
    def from_age(cls, line: str) -> Self:
        """Read a line `AGE-SECRET-KEY-1...`.

        Raises:
            KeyFileError: not such a line.
        """
        try:
            with _no_panic():
                age = pyrage.x25519.Identity.from_str(line.strip())
        except (pyrage.IdentityError, _PanicError):
            raise KeyFileError("not an age identity") from None
        return cls(Recipient(str(age.to_public()), age.to_public()), age)

    @classmethod
    def from_openssh(cls, data: bytes) -> Self:
        """Read an unencrypted OpenSSH private key.

        Raises:
            KeyFileError: of another type, or protected by a passphrase.
        """
        try:
            # The age library panics, with lines on stderr, where numbers do not fit.
            load_ssh_private_key(data, password=None)
            with _no_panic():
                age = pyrage.ssh.Identity.from_buffer(data)
        except (
            pyrage.IdentityError,
            _PanicError,
            TypeError,
            ValueError,
            UnsupportedAlgorithm,
        ):
            raise KeyFileError("not an SSH private key that age can use") from None
        return cls(None, age)

    @staticmethod
    def generate() -> str:
        """Return the line of a new X25519 identity."""
        return str(pyrage.x25519.Identity.generate())


def wrap(model_key: Secret, recipient: Recipient) -> bytes:
    """Return the age file with the model key for one recipient."""
    data: bytes = pyrage.encrypt(bytes(model_key.view), [recipient.age])
    return data


def unwrap(data: bytes, identities: list[Identity]) -> Secret | None:
    """Return what a key file holds for one of the identities, or None.

    Only X25519 and SSH identities are used here, so no passphrase is stretched
    and no plugin is started, whatever the file says.
    """
    with contextlib.suppress(pyrage.DecryptError, _PanicError), _no_panic():
        return _candidate(pyrage.decrypt(data, [i.age for i in identities]))
    return None


def wrap_with_passphrase(model_key: Secret, passphrase: str) -> bytes:
    """Return the age file with the model key for whoever knows the passphrase."""
    return seal_for_passphrase(model_key.view, passphrase)


def unwrap_with_passphrase(data: bytes, passphrase: str) -> Secret | None:
    """Return what a passphrase file holds, or None if it is another passphrase's.

    The caller has checked the work factor with `stanza_types`.

    Raises:
        NoUsableKeyError: there is not the memory that it asks for.
    """
    content = open_for_passphrase(data, passphrase)
    return None if content is None else _candidate(content)


def is_for_passphrase(data: bytes) -> bool:
    """Tell whether a key file is one that a passphrase opens."""
    return "scrypt" in stanza_types(data)


def _candidate(plaintext: bytes) -> Secret | None:
    if len(plaintext) == layout.MODEL_KEY_SIZE:
        return Secret(plaintext)
    _log.warning("a key file holds %d bytes, not a model key", len(plaintext))
    return None


def stanza_types(data: bytes) -> list[str]:
    """Return the recipient types in an age header, such as `X25519`.

    Raises:
        DamagedError: not a binary age file, too many recipients, or an excessive
            scrypt work factor.
    """
    header, separator, _ = data.partition(b"\n--- ")
    try:
        lines = header.decode("ascii").split("\n")
    except UnicodeDecodeError:
        raise DamagedError("a key file is not an age file") from None
    if not separator or lines[0] != _INTRO:
        raise DamagedError("a key file is not an age file")
    stanzas = [line[3:].split(" ") for line in lines if line.startswith("-> ")]
    if len(stanzas) > layout.STANZAS_MAX:
        raise DamagedError("a key file has too many recipients")
    for stanza in stanzas:
        if stanza[0] == "scrypt":
            _check_scrypt(stanza)
    # A grease stanza is there to be ignored (age.md).
    return [s[0] for s in stanzas if not s[0].endswith("-grease")]


def _check_scrypt(stanza: list[str]) -> None:
    factor = stanza[2] if len(stanza) == 3 else ""  # noqa: PLR2004 - type, salt, factor
    canonical = factor.isdigit() and not factor.startswith("0")
    if not canonical or len(factor) > 2 or int(factor) > layout.SCRYPT_MAX_LOG2:  # noqa: PLR2004
        raise DamagedError("a key file asks for an excessive scrypt work factor")
