"""The derivations and single chunks, against the library and the document."""

import hmac

import pytest
from cryptography.cobblestone import Cobblestone256Encryptor

from ovfuse.errors import DamagedError
from ovfuse.sealed.primitives import (
    ChunkDecryptor,
    combined_key,
    manifest_context,
    object_context,
    opens,
    private_name,
    recipient_file_id,
)
from tests.support import encryptor
from tests.support.sealed import pattern

KEY = bytes(range(32))
CONTEXT = b"context\0with bytes"


def cobblestone(plaintext: bytes, key: bytes = KEY) -> bytes:
    writer = Cobblestone256Encryptor(key, CONTEXT)
    return writer.update(plaintext) + writer.finalize()


def test_contexts() -> None:
    seal_id, object_id = "01" * 16, "02" * 16

    assert manifest_context(b"{}") == encryptor.manifest_context(b"{}")
    assert object_context(seal_id, object_id) == (
        b"ovfuse.object.v1\0" + b"\1" * 16 + b"\2" * 16
    )


@pytest.mark.parametrize("recipient", ["age1abc", "ssh-ed25519 AAAA", "passphrase"])
def test_name_of_a_key_file(recipient: str) -> None:
    name = encryptor.key_file_name(KEY, recipient)

    assert f"{recipient_file_id(memoryview(KEY), recipient)}.age" == name


@pytest.mark.parametrize("size", [0, 1, 16383, 16384, 16385, 49152, 65537])
def test_every_chunk_of_the_library_is_decrypted(size: int) -> None:
    plaintext = pattern(size)
    message = cobblestone(plaintext)
    chunks = ChunkDecryptor(memoryview(KEY), message[:56], CONTEXT)
    found = b""
    for number, start in enumerate(range(56, len(message), 16400)):
        ciphertext = memoryview(message)[start : start + 16400]
        target = bytearray(len(ciphertext) - 16)
        chunks.decrypt_into(number, ciphertext, memoryview(target))
        found += target

    assert found == plaintext


def test_chunks_that_follow_each_other() -> None:
    plaintext = pattern(5 * 16384 + 9)
    message = cobblestone(plaintext)
    chunks = ChunkDecryptor(memoryview(KEY), message[:56], CONTEXT)
    target = bytearray(3 * 16384 + 9)
    ciphertext = bytearray(message[56 + 2 * 16400 :])
    chunks.decrypt_into(2, memoryview(ciphertext), memoryview(target))
    assert target == plaintext[2 * 16384 :]

    for changed in range(0, len(ciphertext), 16400):
        ciphertext[changed] ^= 1
        with pytest.raises(DamagedError, match="chunk"):
            chunks.decrypt_into(2, memoryview(ciphertext), memoryview(target))
        ciphertext[changed] ^= 1


def test_nothing_is_no_chunk() -> None:
    chunks = ChunkDecryptor(memoryview(KEY), cobblestone(b"")[:56], CONTEXT)

    with pytest.raises(DamagedError, match="chunk"):
        chunks.decrypt_into(0, memoryview(b""), memoryview(bytearray(0)))


def test_library_and_document_encrypt_the_same() -> None:
    message = cobblestone(pattern(40_000))
    salt = message[:24]

    assert message == encryptor.encrypt_message(KEY, salt, CONTEXT, pattern(40_000))
    assert encryptor.decrypt_message(KEY, CONTEXT, message) == pattern(40_000)


@pytest.mark.parametrize(
    ("key", "context"), [(bytes(32), CONTEXT), (KEY, b"context"), (KEY, b"")]
)
def test_other_key_or_context_does_not_open(key: bytes, context: bytes) -> None:
    prefix = cobblestone(b"")[:56]

    assert opens(memoryview(KEY), prefix, CONTEXT)
    assert not opens(memoryview(key), prefix, context)
    with pytest.raises(DamagedError, match="another key"):
        ChunkDecryptor(memoryview(key), prefix, context)


@pytest.mark.parametrize(("number", "position"), [(1, 0), (0, 0), (0, 15), (0, 16399)])
def test_changed_or_moved_chunk(number: int, position: int) -> None:
    message = cobblestone(pattern(20_000))
    chunks = ChunkDecryptor(memoryview(KEY), message[:56], CONTEXT)
    ciphertext = bytearray(message[56 : 56 + 16400])
    ciphertext[position] ^= number == 0

    with pytest.raises(DamagedError, match="chunk"):
        chunks.decrypt_into(
            number, memoryview(ciphertext), memoryview(bytearray(16384))
        )


def test_combined_key_is_hkdf_of_both() -> None:
    key, other = (memoryview(bytes([n]) * 32) for n in (1, 2))
    made = bytes(combined_key(key, other, b"label").view)

    # RFC 5869 with SHA-512, by hand.
    prk = hmac.digest(other, key, "sha512")
    assert made == hmac.digest(prk, b"label\x01", "sha512")[:32]
    for changed in (
        combined_key(other, other, b"label"),
        combined_key(key, key, b"label"),
        combined_key(key, other, b"labels"),
    ):
        assert bytes(changed.view) != made


def test_private_name_needs_the_key() -> None:
    key = memoryview(bytes(32))
    name = private_name(key, b"label", b"text")

    assert len(bytes.fromhex(name)) == 16
    assert name == private_name(key, b"label", b"text")
    assert name != private_name(key, b"label", b"texts")
    assert name != private_name(memoryview(b"1" * 32), b"label", b"text")
