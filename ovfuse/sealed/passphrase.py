"""Age files for a passphrase: what age(1) makes and opens, at a cost that is fixed.

Used by wrapping.py. pyrage has no such functions that could be used: it takes 2^17 or
2^20 by how fast the machine seems to be at the moment, and refuses to open what would
take longer than some seconds, by the same guess. So a busy or slow device could not
open what a fast one had sealed. Of the format (C2SP age.md) this is what one short
message for one passphrase needs.
"""

import base64
import binascii
import hmac
import logging
import os
import re
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from ovfuse.errors import NoUsableKeyError

__all__ = ["open_for_passphrase", "seal_for_passphrase"]

_log = logging.getLogger(__name__)

_FACTOR: Final = 18
"""2^18, as age(1) has it: 256 MiB, and most of a second."""
_LABEL: Final = b"age-encryption.org/v1/scrypt"
_KEY_SIZE: Final = 32
_FILE_KEY_SIZE: Final = 16
_WRAP_NONCE: Final = bytes(12)
_ONLY_CHUNK: Final = bytes(11) + b"\x01"
"""The nonce of chunk 0, which is the last."""
_CHUNK_MAX: Final = 64 * 1024 + 16
_FILE: Final = re.compile(
    rb"(age-encryption\.org/v1\n"
    rb"-> scrypt (?P<salt>[A-Za-z0-9+/]{22}) (?P<factor>[1-9][0-9]?)\n"
    rb"(?P<body>[A-Za-z0-9+/]{43})\n"
    rb"---) (?P<mac>[A-Za-z0-9+/]{43})\n"
    rb"(?P<nonce>.{16})(?P<chunk>.{16,%d})" % _CHUNK_MAX,
    re.DOTALL,
)


def seal_for_passphrase(content: memoryview, passphrase: str) -> bytes:
    """Return an age file with `content`, of at most 64 KiB.

    Raises:
        NoUsableKeyError: there is not the memory for it.
    """
    file_key, salt, nonce = (os.urandom(_FILE_KEY_SIZE) for _ in range(3))
    key = _stretched(passphrase, salt, _FACTOR)
    body = ChaCha20Poly1305(key).encrypt(_WRAP_NONCE, file_key, None)
    stanza = b"-> scrypt %b %d\n%b" % (_encoded(salt), _FACTOR, _encoded(body))
    header = b"age-encryption.org/v1\n%b\n---" % stanza
    payload_key = _derived(file_key, nonce, b"payload")
    chunk = ChaCha20Poly1305(payload_key).encrypt(_ONLY_CHUNK, content, None)
    return b"%b %b\n%b%b" % (header, _encoded(_mac(file_key, header)), nonce, chunk)


def open_for_passphrase(data: bytes, passphrase: str) -> bytes | None:
    """Return what an age file holds, or None if it is another passphrase's.

    None also, and a line in the log, for what is not such a file.

    Args:
        data: the file; its work factor was checked.
        passphrase: to try.

    Raises:
        NoUsableKeyError: there is not the memory that its work factor asks for.
    """
    found = _FILE.fullmatch(data)
    try:
        if found is None:
            raise _MalformedError
        salt, body, mac = (_decoded(found[name]) for name in ("salt", "body", "mac"))
        key = _stretched(passphrase, salt, int(found["factor"]))
        try:
            file_key = ChaCha20Poly1305(key).decrypt(_WRAP_NONCE, body, None)
        except InvalidTag:
            return None
        if not hmac.compare_digest(_mac(file_key, found[1]), mac):
            raise _MalformedError
        payload = ChaCha20Poly1305(_derived(file_key, found["nonce"], b"payload"))
        return payload.decrypt(_ONLY_CHUNK, found["chunk"], None)
    except (_MalformedError, InvalidTag):
        _log.warning("skipped a key file for a passphrase that is damaged")
        return None


class _MalformedError(Exception):
    """It is not what age would make."""


def _stretched(passphrase: str, salt: bytes, factor: int) -> bytes:
    scrypt = Scrypt(salt=_LABEL + salt, length=_KEY_SIZE, n=1 << factor, r=8, p=1)
    try:
        return scrypt.derive(passphrase.encode())
    except MemoryError:
        needed = (1 << factor) // 1024
        said = f"a passphrase takes {needed} MiB of memory, which there are not"
        raise NoUsableKeyError(said) from None


def _derived(file_key: bytes, salt: bytes, info: bytes) -> bytes:
    return HKDF(hashes.SHA256(), _KEY_SIZE, salt, info).derive(file_key)


def _mac(file_key: bytes, header: bytes) -> bytes:
    return hmac.digest(_derived(file_key, b"", b"header"), header, "sha256")


def _encoded(data: bytes) -> bytes:
    return base64.b64encode(data).rstrip(b"=")


def _decoded(text: bytes) -> bytes:
    """Return what canonical base64 without padding stands for."""
    try:
        data = base64.b64decode(text + b"=" * (-len(text) % 4), validate=True)
    except binascii.Error:
        raise _MalformedError from None
    if _encoded(data) != text:
        raise _MalformedError
    return data
