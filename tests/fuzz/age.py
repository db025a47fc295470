"""Age files with headers of one's choice, from age-encryption.org/v1.

The file key is known, so that a header that was changed gets a MAC that fits: only so
does a mutation come past it. Used by the target `key_file`.
"""

import base64
import hashlib
import hmac

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import (
    X25519PrivateKey,
    X25519PublicKey,
)
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

FILE_KEY = bytes(range(16))
_EPHEMERAL = X25519PrivateKey.from_private_bytes(bytes(range(32)))
_NONCE = bytes(range(100, 116))
_CURVE_PRIME = 2**255 - 19
_LABEL = "age-encryption.org/v1"


def _hkdf(key: bytes, salt: bytes, info: str) -> bytes:
    return HKDF(hashes.SHA256(), 32, salt, info.encode()).derive(key)


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode().rstrip("=")


def _stanza(arguments: list[str], body: bytes) -> str:
    text = _base64(body)
    lines = [text[start : start + 64] for start in range(0, len(text) + 1, 64)]
    return "\n".join(["-> " + " ".join(arguments), *lines]) + "\n"


def _boxed(key: bytes, file_key: bytes) -> bytes:
    return ChaCha20Poly1305(key).encrypt(bytes(12), file_key, None)


def x25519_stanza(recipient: bytes, file_key: bytes = FILE_KEY) -> str:
    """Return a stanza for the 32 bytes of an X25519 recipient."""
    shared = _EPHEMERAL.exchange(X25519PublicKey.from_public_bytes(recipient))
    share = _EPHEMERAL.public_key().public_bytes_raw()
    key = _hkdf(shared, share + recipient, f"{_LABEL}/X25519")
    return _stanza(["X25519", _base64(share)], _boxed(key, file_key))


def ed25519_stanza(blob: bytes, file_key: bytes = FILE_KEY) -> str:
    """Return a stanza for the SSH public-key blob of an ssh-ed25519 key."""
    y = int.from_bytes(blob[-32:], "little") & (2**255 - 1)
    u = (1 + y) * pow(1 - y, -1, _CURVE_PRIME) % _CURVE_PRIME
    recipient = u.to_bytes(32, "little")
    info = f"{_LABEL}/ssh-ed25519"
    tweak = X25519PrivateKey.from_private_bytes(_hkdf(b"", blob, info))
    shared = tweak.exchange(
        X25519PublicKey.from_public_bytes(
            _EPHEMERAL.exchange(X25519PublicKey.from_public_bytes(recipient))
        )
    )
    share = _EPHEMERAL.public_key().public_bytes_raw()
    key = _hkdf(shared, share + recipient, info)
    return _stanza(["ssh-ed25519", _tag(blob), _base64(share)], _boxed(key, file_key))


def rsa_stanza(line: str, file_key: bytes = FILE_KEY) -> str:
    """Return a stanza for the line of an ssh-rsa public key."""
    key = serialization.load_ssh_public_key(line.encode())
    assert isinstance(key, RSAPublicKey)
    sha256 = hashes.SHA256()
    label = f"{_LABEL}/ssh-rsa".encode()
    oaep = padding.OAEP(padding.MGF1(sha256), sha256, label)
    blob = base64.b64decode(line.split()[1])
    return _stanza(["ssh-rsa", _tag(blob)], key.encrypt(file_key, oaep))


def scrypt_stanza(passphrase: str, log2: int, file_key: bytes = FILE_KEY) -> str:
    """Return a stanza for a passphrase."""
    salt = bytes(range(16))
    key = hashlib.scrypt(
        passphrase.encode(),
        salt=f"{_LABEL}/scrypt".encode() + salt,
        n=2**log2,
        r=8,
        p=1,
        dklen=32,
    )
    return _stanza(["scrypt", _base64(salt), str(log2)], _boxed(key, file_key))


def _tag(blob: bytes) -> str:
    return _base64(hashlib.sha256(blob).digest()[:4])


def age_file(stanzas: list[str], plaintext: bytes) -> bytes:
    """Return an age file with these stanzas, its plaintext at most one chunk."""
    header = f"{_LABEL}\n{''.join(stanzas)}---".encode()
    key = _hkdf(FILE_KEY, _NONCE, "payload")
    last = bytes(11) + b"\1"
    payload = ChaCha20Poly1305(key).encrypt(last, plaintext, None)
    return _with_mac(header) + _NONCE + payload


def with_right_mac(data: bytes) -> bytes:
    """Return an age file whose header's MAC fits it again."""
    header, mark, rest = data.partition(b"\n---")
    _, line_feed, payload = rest.partition(b"\n")
    return _with_mac(header + mark) + payload if mark and line_feed else data


def _with_mac(header: bytes) -> bytes:
    mac = hmac.digest(_hkdf(FILE_KEY, b"", "header"), header, "sha256")
    return header + b" " + _base64(mac).encode() + b"\n"
