"""Cobblestone-256 at random access, and the derivations beside it.

The library streams whole messages only; this module goes away when it ships a
decryptor for ranges. Formulas: C2SP chunked-encryption. Objects here hold
derived keys and are safe to use from many threads.
"""

import hashlib
import hmac
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF, HKDFExpand

from ovfuse.errors import DamagedError
from ovfuse.sealed import layout
from ovfuse.sealed.offsets import (
    CHUNK_SIZE,
    COMMITMENT_SIZE,
    ENCRYPTED_CHUNK_SIZE,
    PREFIX_SIZE,
    SALT_SIZE,
)
from ovfuse.secret import Secret

__all__ = [
    "ChunkDecryptor",
    "combined_key",
    "derived_key",
    "manifest_context",
    "object_context",
    "opens",
    "private_name",
    "recipient_file_id",
]

_ALGORITHM_LABEL: Final = b"c2sp.org/chunked-encryption@v1+AEAD_AES_256_GCM\0"
_AES_KEY_SIZE: Final = 32
_NONCE_SIZE: Final = 12
_DERIVED_KEY_SIZE: Final = 32


def _expand(key: memoryview, info: bytes, size: int) -> bytes:
    return HKDFExpand(hashes.SHA512(), size, info).derive(key)


def _derive(key: memoryview, salt: bytes, context: bytes) -> tuple[bytes, bytes, bytes]:
    """Return AES key, base nonce and commitment of a message."""
    info = _ALGORITHM_LABEL + salt + context
    okm = _expand(key, info, _AES_KEY_SIZE + _NONCE_SIZE + COMMITMENT_SIZE)
    nonce_end = _AES_KEY_SIZE + _NONCE_SIZE
    return okm[:_AES_KEY_SIZE], okm[_AES_KEY_SIZE:nonce_end], okm[nonce_end:]


def manifest_context(clear_facts: bytes) -> bytes:
    """Return the context of a manifest message, from the exact clear facts."""
    return layout.MANIFEST_LABEL + b"\0" + hashlib.sha256(clear_facts).digest()


def object_context(seal_id: str, object_id: str) -> bytes:
    """Return the context of an object's message, from the two ids in hex."""
    ids = bytes.fromhex(seal_id) + bytes.fromhex(object_id)
    return layout.OBJECT_LABEL + b"\0" + ids


def opens(model_key: memoryview, prefix: bytes, context: bytes) -> bool:
    """Tell whether a message with this 56-byte prefix commits to this key."""
    *_, commitment = _derive(model_key, prefix[:SALT_SIZE], context)
    return hmac.compare_digest(commitment, prefix[SALT_SIZE:PREFIX_SIZE])


def recipient_file_id(model_key: memoryview, recipient: str) -> str:
    """Return the hex part of a key file's name, from the canonical recipient."""
    name_key = _expand(model_key, layout.RECIPIENT_LABEL, 32)
    mac = hmac.digest(name_key, recipient.encode("ascii"), "sha256")
    return mac[: layout.ID_SIZE].hex()


def derived_key(model_key: memoryview, label: bytes, seal_id: str) -> Secret:
    """Return 32 bytes that only who has the model key can derive.

    They are another use's than the format's, which `label` tells apart.
    """
    info = label + b"\0" + bytes.fromhex(seal_id)
    return Secret(_expand(model_key, info, _DERIVED_KEY_SIZE))


def combined_key(key: memoryview, other: memoryview, label: bytes) -> Secret:
    """Return 32 bytes for which both keys are needed (HKDF-SHA-512)."""
    salt = other.tobytes()
    return Secret(HKDF(hashes.SHA512(), _DERIVED_KEY_SIZE, salt, label).derive(key))


def private_name(key: memoryview, label: bytes, text: bytes) -> str:
    """Return 32 hex digits for a text that say nothing of it without the key."""
    name_key = _expand(key, label, _DERIVED_KEY_SIZE)
    return hmac.digest(name_key, text, "sha256")[: layout.ID_SIZE].hex()


class ChunkDecryptor:
    """Decrypts single chunks of one message.

    Args:
        model_key: 32 bytes.
        prefix: the first 56 bytes of the message.
        context: see `object_context`.

    Raises:
        DamagedError: the message commits to another key.
    """

    __slots__ = ("_aead", "_base_nonce")

    def __init__(self, model_key: memoryview, prefix: bytes, context: bytes) -> None:
        key, nonce, commitment = _derive(model_key, prefix[:SALT_SIZE], context)
        if not hmac.compare_digest(commitment, prefix[SALT_SIZE:PREFIX_SIZE]):
            raise DamagedError("an object is encrypted under another key")
        self._aead = AESGCM(key)
        self._base_nonce = int.from_bytes(nonce, "big")

    def decrypt_into(
        self, chunk_number: int, ciphertext: memoryview, plaintext: memoryview
    ) -> None:
        """Decrypt one chunk, or several that follow each other.

        `plaintext` has exactly the size of their content, `ciphertext` a tag more for
        each.

        Raises:
            DamagedError: a tag does not verify; `plaintext` is then not to be used.
        """
        decrypt, base_nonce = self._aead.decrypt_into, self._base_nonce
        starts = range(0, max(1, len(ciphertext)), ENCRYPTED_CHUNK_SIZE)
        try:
            for number, start in enumerate(starts):
                nonce = (base_nonce ^ chunk_number + number).to_bytes(_NONCE_SIZE)
                decrypt(
                    nonce,
                    ciphertext[start : start + ENCRYPTED_CHUNK_SIZE],
                    None,
                    plaintext[number * CHUNK_SIZE : (number + 1) * CHUNK_SIZE],
                )
        except InvalidTag:
            raise DamagedError("a chunk is corrupted or tampered with") from None
