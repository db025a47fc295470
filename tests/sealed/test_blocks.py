"""Block lists: the same from any pieces, and nothing else passes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ovfuse.errors import DamagedError
from ovfuse.sealed.blocks import BlockList, BlockLister
from tests.support import encryptor
from tests.support.sealed import pattern

SIZES = [0, 1, 16383, 16384, 65535, 65536, 65537, 131071, 131072, 200_000]


def message_of(size: int) -> bytes:
    return encryptor.encrypt_message(bytes(32), bytes(24), b"context", pattern(size))


MESSAGES = {size: message_of(size) for size in SIZES}


def list_in_pieces(message: bytes, sizes: list[int]) -> tuple[bytes, str]:
    lister = BlockLister()
    rest = memoryview(message)
    while rest:
        size = sizes.pop() if sizes else len(rest)
        lister.update(rest[:size])
        rest = rest[size:]
    return lister.finish()


@pytest.mark.parametrize("size", SIZES)
def test_list_in_one_piece(size: int) -> None:
    message = MESSAGES[size]
    entries, digest = list_in_pieces(message, [])

    assert entries == encryptor.block_list(message)
    assert digest == encryptor.block_list_hash(message, entries)


pieces = st.sampled_from([0, 1, 55, 56, 57, 16400, 65599, 65600, 65601])


@given(st.sampled_from(SIZES), st.lists(pieces | st.integers(0, 70_000)))
def test_list_in_any_pieces(size: int, sizes: list[int]) -> None:
    message = MESSAGES[size]

    assert list_in_pieces(message, sizes) == list_in_pieces(message, [])


def test_last_block_may_be_full() -> None:
    data = pattern(56 + 2 * 65600)  # no message ends like this

    assert list_in_pieces(data, [])[0] == encryptor.block_list(data)


@pytest.mark.parametrize("place", ["prefix", "entries", "hash"])
def test_list_that_was_not_signed(place: str) -> None:
    message = MESSAGES[65536]
    prefix, entries = message[:56], encryptor.block_list(message)
    digest = encryptor.block_list_hash(message, entries)
    if place == "prefix":
        prefix = message[:55] + b"x"
    elif place == "entries":
        entries = entries[32:] + entries[:32]
    else:
        digest = digest[::-1]

    with pytest.raises(DamagedError):
        BlockList(prefix, entries, digest)


def test_block_in_the_place_of_another() -> None:
    message = MESSAGES[131072]
    entries = encryptor.block_list(message)
    blocks = BlockList(
        message[:56], entries, encryptor.block_list_hash(message, entries)
    )
    body = memoryview(message)[56:]
    first, second = body[:65600], body[65600:131200]

    blocks.check(0, first)
    blocks.check(1, second)
    with pytest.raises(DamagedError):
        blocks.check(0, second)
    with pytest.raises(DamagedError):
        blocks.check(1, first)


def test_block_that_has_no_entry() -> None:
    message = MESSAGES[0]
    entries = encryptor.block_list(message)
    blocks = BlockList(
        message[:56], entries, encryptor.block_list_hash(message, entries)
    )

    with pytest.raises(DamagedError):
        blocks.check(1, memoryview(message)[56:])
