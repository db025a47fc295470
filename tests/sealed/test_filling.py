"""One message into memory, step by step, wherever content, padding and steps end."""

import pytest
from cryptography.cobblestone import Cobblestone256Encryptor

from ovfuse.errors import DamagedError
from ovfuse.sealed.filling import CHUNKS_PER_STEP, STEP_SIZE, Filling
from ovfuse.sealed.offsets import CHUNK_SIZE, ENCRYPTED_CHUNK_SIZE, PREFIX_SIZE
from tests.support.sealed import pattern

KEY, CONTEXT = memoryview(bytes(range(32))), b"context"
CIPHERTEXT_SIZE = CHUNKS_PER_STEP * ENCRYPTED_CHUNK_SIZE


def encrypted(plaintext: bytes) -> bytearray:
    encryptor = Cobblestone256Encryptor(KEY, CONTEXT)
    return bytearray(encryptor.update(plaintext) + encryptor.finalize())


def fill(target: memoryview, message: bytearray) -> None:
    filling = Filling(KEY, CONTEXT, bytes(message[:PREFIX_SIZE]), target)
    try:
        for start in range(PREFIX_SIZE, len(message), CIPHERTEXT_SIZE):
            filling.update(memoryview(message)[start : start + CIPHERTEXT_SIZE])
        filling.finish()
    except DamagedError:
        filling.wipe()
        raise


@pytest.mark.parametrize(
    ("size", "padded_size"),
    [
        (0, 0),
        (0, 2 * STEP_SIZE + 5),
        (1, STEP_SIZE),
        (CHUNK_SIZE, CHUNK_SIZE),
        (STEP_SIZE - CHUNK_SIZE, STEP_SIZE),
        (STEP_SIZE - 1, STEP_SIZE + 1),
        (STEP_SIZE, STEP_SIZE),
        (STEP_SIZE, 3 * STEP_SIZE),
        (STEP_SIZE + 1, 3 * STEP_SIZE + 1),
        (STEP_SIZE + CHUNK_SIZE + 1, 2 * STEP_SIZE),
    ],
)
def test_content_and_padding_end_anywhere(size: int, padded_size: int) -> None:
    plaintext = pattern(size)
    padding = bytearray(padded_size - size)
    target = memoryview(bytearray(size))

    fill(target, encrypted(plaintext + padding))

    assert target == plaintext
    for position in {0, len(padding) // 2, len(padding) - 1} if padding else ():
        padding[position] = 1
        with pytest.raises(DamagedError, match="padding"):
            fill(target, encrypted(plaintext + padding))
        assert not any(target)
        padding[position] = 0
    message = encrypted(plaintext + padding)
    for position in (PREFIX_SIZE, len(message) // 2, len(message) - 1):
        damaged = bytearray(message)
        damaged[max(position, PREFIX_SIZE)] ^= 1
        with pytest.raises(DamagedError, match="corrupted"):
            fill(target, damaged)
        assert not any(target)
