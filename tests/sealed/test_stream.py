"""Whole files from start to end: hash, padding, sizes."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from ovfuse.errors import CipherdirError, DamagedError
from ovfuse.sealed.wrapping import Identity
from tests.support.encryptor import Edits, Json, Plain, encrypt
from tests.support.sealed import (
    entry_of,
    make_identity,
    make_unlocker,
    opened,
    outcome,
    pattern,
    read_at,
    stream,
    write_sealed,
)

BLOCK = 65536
STEP = 16 * BLOCK


@pytest.fixture(scope="module")
def identity() -> Identity:
    return make_identity()


def write_one(
    directory: Path,
    identity: Identity,
    content: bytes,
    padded_size: int | None = None,
    edits: Edits | None = None,
) -> Path:
    padded = {} if padded_size is None else {"f": padded_size}
    plain = Plain(files={"f": content}, padded=padded)
    return write_sealed(encrypt(plain, "stream", edits or Edits()), directory, identity)


@pytest.mark.parametrize(
    "size",
    [
        *(0, 1, 16383, 16384, BLOCK - 1, BLOCK, BLOCK + 1),
        *(STEP - 1, STEP, STEP + 1, STEP + 16384, 2 * STEP, 2 * STEP + 5),
    ],
)
def test_whole_file(tmp_path: Path, identity: Identity, size: int) -> None:
    directory = write_one(tmp_path, identity, pattern(size))

    with opened(directory, identity) as sealing:
        assert stream(sealing, entry_of(sealing, "f")) == pattern(size)


@pytest.mark.parametrize(
    ("size", "padded_size"),
    [
        (0, 1),
        (0, BLOCK),
        (1, 2),
        (1, 16384),
        (16383, 16384),
        (16384, 16385),
        (BLOCK, 2 * BLOCK),
        (BLOCK + 1, 3 * BLOCK - 1),
        (10, STEP + 10),
        (STEP, STEP + 1),
    ],
)
def test_padding_is_not_shown(
    tmp_path: Path, identity: Identity, size: int, padded_size: int
) -> None:
    directory = write_one(tmp_path, identity, pattern(size), padded_size)

    with opened(directory, identity) as sealing:
        assert stream(sealing, entry_of(sealing, "f")) == pattern(size)


@pytest.mark.parametrize(
    ("padded_size", "position"),
    [(11, 10), (12, 11), (16384, 16383), (BLOCK, 10), (BLOCK, 20_000), (STEP + 9, -1)],
)
def test_padding_that_is_not_zeros_is_damage(
    tmp_path: Path, identity: Identity, padded_size: int, position: int
) -> None:
    def edit(_: str, content: bytes) -> bytes:
        changed = bytearray(content)
        changed[position] = 1
        return bytes(changed)

    edits = Edits(content=edit)
    directory = write_one(tmp_path, identity, pattern(10), padded_size, edits)

    with opened(directory, identity) as sealing:
        entry = entry_of(sealing, "f")
        with pytest.raises(DamagedError, match="padding"):
            stream(sealing, entry)
        assert read_at(sealing, entry, 0, 100) == pattern(10)


def test_size_is_not_taken_from_the_padding(tmp_path: Path, identity: Identity) -> None:
    def edit(manifest: Json) -> None:
        manifest["files"][0]["size"] = 9

    directory = write_one(tmp_path, identity, pattern(10), edits=Edits(manifest=edit))

    with opened(directory, identity) as sealing, pytest.raises(DamagedError):
        stream(sealing, entry_of(sealing, "f"))


def test_hash_of_other_content_is_damage(tmp_path: Path, identity: Identity) -> None:
    edits = Edits(content=lambda _, content: content[::-1])
    directory = write_one(tmp_path, identity, pattern(10), edits=edits)

    with (
        opened(directory, identity) as sealing,
        pytest.raises(DamagedError, match="not what its publisher hashed"),
    ):
        stream(sealing, entry_of(sealing, "f"))


def change_chunk(message: bytes) -> bytes:
    return message[:60] + bytes([message[60] ^ 1]) + message[61:]


def swap_chunks(message: bytes) -> bytes:
    first, second = message[56:16456], message[16456:32856]
    return message[:56] + second + first + message[32856:]


@pytest.mark.parametrize("edit", [change_chunk, swap_chunks])
def test_chunk_that_was_hashed_but_does_not_decrypt(
    tmp_path: Path, identity: Identity, edit: Callable[[bytes], bytes]
) -> None:
    edits = Edits(message=lambda _, message: edit(message))
    directory = write_one(tmp_path, identity, pattern(40_000), edits=edits)

    with opened(directory, identity) as sealing:
        entry = entry_of(sealing, "f")
        with pytest.raises(DamagedError):
            stream(sealing, entry)
        with pytest.raises(DamagedError):
            read_at(sealing, entry, 0, 40_000)
        with pytest.raises(DamagedError):
            read_at(sealing, entry, 5, 5)


def test_final_chunk_that_was_hashed_but_does_not_decrypt(
    tmp_path: Path, identity: Identity
) -> None:
    edits = Edits(message=lambda _, message: message[:-1] + bytes([message[-1] ^ 1]))
    directory = write_one(tmp_path, identity, pattern(BLOCK + 5), edits=edits)

    with opened(directory, identity) as sealing:
        entry = entry_of(sealing, "f")
        with pytest.raises(DamagedError):
            stream(sealing, entry)
        with pytest.raises(DamagedError):
            read_at(sealing, entry, BLOCK + 4, 1)


EMPTY_CHUNK = 16
WRONG_SHAPES: dict[str, Callable[[bytes], bytes]] = {
    "no final chunk": lambda m: m[:-EMPTY_CHUNK],
    "no chunk": lambda m: m[:56],
    "no commitment": lambda m: m[:24] + m[56:],
    "nothing": lambda _: b"",
    "two final chunks": lambda m: m + m[-EMPTY_CHUNK:],
    "one chunk too many": lambda m: m[:-EMPTY_CHUNK] + m[56:16456] + m[-EMPTY_CHUNK:],
    "garbage after": lambda m: m + b"garbage",
}


@pytest.mark.parametrize("shape", WRONG_SHAPES)
def test_message_that_was_hashed_but_has_a_wrong_shape(
    tmp_path: Path, identity: Identity, shape: str
) -> None:
    edits = Edits(message=lambda _, message: WRONG_SHAPES[shape](message))
    directory = write_one(tmp_path, identity, pattern(BLOCK), edits=edits)

    found = outcome(directory, make_unlocker([identity], [], allow_untrusted=True))
    assert isinstance(found, DamagedError)


def test_prefix_that_was_hashed_but_commits_to_another_key(
    tmp_path: Path, identity: Identity
) -> None:
    edits = Edits(message=lambda _, message: bytes(56) + message[56:])
    directory = write_one(tmp_path, identity, pattern(5), edits=edits)

    with opened(directory, identity) as sealing:
        entry = entry_of(sealing, "f")
        with pytest.raises(DamagedError):
            stream(sealing, entry)
        with pytest.raises(DamagedError):
            sealing.open_file(entry)


def test_nothing_of_a_damaged_step_is_released(
    tmp_path: Path, identity: Identity
) -> None:
    directory = write_one(tmp_path, identity, pattern(2 * STEP))
    (path,) = directory.glob("seals/*/objects/*")
    with path.open("r+b") as file:
        file.seek(56 + 65600 * 20)
        file.write(b"damage")

    with opened(directory, identity) as sealing:
        pieces = sealing.stream_file(entry_of(sealing, "f"))
        assert bytes(next(pieces)) == pattern(STEP)
        with pytest.raises(DamagedError):
            next(pieces)
        assert list(pieces) == []


def test_object_that_shrinks_while_it_is_read(
    tmp_path: Path, identity: Identity
) -> None:
    directory = write_one(tmp_path, identity, pattern(2 * STEP))
    (path,) = directory.glob("seals/*/objects/*")

    with opened(directory, identity) as sealing:
        pieces = sealing.stream_file(entry_of(sealing, "f"))
        next(pieces)
        os.truncate(path, 56 + 65600 * 16 + 5)
        with pytest.raises(DamagedError, match="truncated"):
            next(pieces)


def test_verify_counts_the_bytes(tmp_path: Path, identity: Identity) -> None:
    directory = write_one(tmp_path, identity, pattern(STEP + 5), 2 * STEP)
    told: list[int] = []

    with opened(directory, identity) as sealing:
        sealing.verify_file(entry_of(sealing, "f"), told.append)
    assert sum(told) == STEP + 5


def test_closed_sealing_opens_nothing(tmp_path: Path, identity: Identity) -> None:
    directory = write_one(tmp_path, identity, pattern(5))
    with opened(directory, identity) as sealing:
        entry = entry_of(sealing, "f")
        reader = sealing.open_file(entry)
        key = sealing.model_key
    sealing.close()

    assert bytes(key.view) == bytes(32)
    with pytest.raises(CipherdirError):
        sealing.open_file(entry)
    buffer = bytearray(5)
    assert reader.read_into(0, memoryview(buffer)) == 5
    assert buffer == pattern(5)
    reader.close()
