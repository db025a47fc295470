"""A writer of age files (age-encryption.org/v1) whose every byte comes from a label.

The key files of the vectors are its work, so that they can be made again byte for
byte, and be wrong in one way each.
"""

from __future__ import annotations

import base64
import hmac
from collections.abc import Callable, Sequence

from cryptography.hazmat.primitives.asymmetric.x25519 import (
    X25519PrivateKey,
    X25519PublicKey,
)
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from tests.support.encryptor import Randomness

Stanza = Callable[[Randomness, bytes], bytes]
"""Makes the stanza that wraps a file key, line feed included."""

INTRO = b"age-encryption.org/v1\n"
ZERO_NONCE = bytes(12)
_BECH32 = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"


def age_file(plaintext: bytes, stanzas: Sequence[Stanza], label: str) -> bytes:
    """Encrypt less than 64 KiB."""
    random = Randomness(f"age file {label}")
    file_key = random.draw("file key", 16)
    made = b"".join(stanza(random, file_key) for stanza in stanzas)
    header = INTRO + made + b"---"
    mac = hmac.digest(_hkdf(file_key, b"", b"header"), header, "sha256")
    nonce = random.draw("nonce", 16)
    payload_key = ChaCha20Poly1305(_hkdf(file_key, nonce, b"payload"))
    body = payload_key.encrypt(bytes(11) + b"\1", plaintext, None)
    return header + b" " + _base64(mac) + b"\n" + nonce + body


def x25519(recipient: str) -> Stanza:
    public = bech32_data(recipient)

    def make(random: Randomness, file_key: bytes) -> bytes:
        secret = X25519PrivateKey.from_private_bytes(random.draw(recipient, 32))
        share = secret.public_key().public_bytes_raw()
        shared = secret.exchange(X25519PublicKey.from_public_bytes(public))
        key = _hkdf(shared, share + public, b"age-encryption.org/v1/X25519")
        body = ChaCha20Poly1305(key).encrypt(ZERO_NONCE, file_key, None)
        return b"-> X25519 " + _base64(share) + b"\n" + _base64(body) + b"\n"

    return make


def x25519_of_nobody(number: int) -> Stanza:
    """A stanza for a recipient whose identity was never kept."""

    def make(random: Randomness, _: bytes) -> bytes:
        share = random.draw(f"share {number}", 32)
        body = random.draw(f"body {number}", 32)
        return b"-> X25519 " + _base64(share) + b"\n" + _base64(body) + b"\n"

    return make


def scrypt(passphrase: str, log2: int, written: str = "") -> Stanza:
    """The stanza of a passphrase; `written` stands where the work factor does."""

    def make(random: Randomness, file_key: bytes) -> bytes:
        salt = random.draw("scrypt salt", 16)
        whole = b"age-encryption.org/v1/scrypt" + salt
        key = Scrypt(whole, 32, 2**log2, 8, 1).derive(passphrase.encode())
        body = ChaCha20Poly1305(key).encrypt(ZERO_NONCE, file_key, None)
        factor = (written or str(log2)).encode()
        return b"-> scrypt %b %b\n%b\n" % (_base64(salt), factor, _base64(body))

    return make


def grease(size: int) -> Stanza:
    """A stanza that is there to be ignored, with a body of `size` bytes."""

    def make(_: Randomness, __: bytes) -> bytes:
        body = _base64(bytes(size))
        lines = [body[n : n + 64] + b"\n" for n in range(0, len(body), 64)]
        last = b"\n" if len(body) % 64 == 0 else b""  # the last line is a short one
        return b"-> x-grease\n" + b"".join(lines) + last

    return make


def bech32_data(text: str) -> bytes:
    """Return the data of `age1...`; the checksum is not checked."""
    digits = [_BECH32.index(c) for c in text.rpartition("1")[2][:-6]]
    number = 0
    for digit in digits:
        number = number * 32 + digit
    return (number >> (5 * len(digits) % 8)).to_bytes(5 * len(digits) // 8, "big")


def _hkdf(key: bytes, salt: bytes, info: bytes) -> bytes:
    return HKDF(SHA256(), 32, salt or None, info).derive(key)


def _base64(data: bytes) -> bytes:
    return base64.b64encode(data).rstrip(b"=")
