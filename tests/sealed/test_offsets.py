"""Sizes and offsets against the formulas of docs/format.md, written out again."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ovfuse.sealed import offsets

sizes = st.integers(0, 2**40)


def sum_of_chunks(plaintext_size: int) -> int:
    """Return the size of a message by going through its chunks."""
    size = 24 + 32
    while plaintext_size >= 16384:
        size += 16400
        plaintext_size -= 16384
    return size + plaintext_size + 16


@pytest.mark.parametrize(
    "center", [0, 16384, 32768, 49152, 65536, 65600, 131072, 10 * 65536, 2**20]
)
def test_sizes_around_boundaries(center: int) -> None:
    for size in range(max(0, center - 100), center + 100):
        assert offsets.message_size(size) == sum_of_chunks(size)
        assert offsets.chunk_count(size) == size // 16384 + 1
        assert offsets.block_count(size) == -(-offsets.chunk_count(size) // 4)


def test_every_size_up_to_70000() -> None:
    last = 0
    for size in range(70_001):
        message = offsets.message_size(size)
        chunks = offsets.chunk_count(size)
        assert message == 56 + size + 16 * chunks
        assert message > last
        assert (chunks - 1) * 16384 <= size < chunks * 16384
        last = message


@given(sizes)
def test_formulas_of_the_document(size: int) -> None:
    chunks = size // 16384 + 1
    blocks = (chunks + 3) // 4

    assert offsets.chunk_count(size) == chunks
    assert offsets.message_size(size) == 56 + size + 16 * chunks
    assert offsets.block_count(size) == blocks
    assert offsets.block_list_size(size) == 32 * blocks


@given(sizes, st.data())
def test_blocks_lie_one_after_another(size: int, data: st.DataObject) -> None:
    number = data.draw(st.integers(0, offsets.block_count(size) - 1))
    start = offsets.block_offset(number)
    end = start + offsets.block_size(number, size)

    assert start == 56 + 65600 * number
    assert end == min(56 + 65600 * (number + 1), offsets.message_size(size))
    assert end > start


@given(sizes)
def test_blocks_are_the_whole_message(size: int) -> None:
    last = offsets.block_count(size) - 1
    before = 65600 * last

    assert 56 + before + offsets.block_size(last, size) == offsets.message_size(size)


@given(sizes, st.integers(1, 2**20))
def test_larger_content_is_a_larger_message(size: int, more: int) -> None:
    assert offsets.message_size(size + more) >= offsets.message_size(size) + more


@pytest.mark.parametrize(
    ("size", "number"), [(0, -1), (0, 1), (65535, 1), (65536, 2), (2**40, 2**24 + 1)]
)
def test_block_that_is_not_there(size: int, number: int) -> None:
    with pytest.raises(ValueError, match="no such block"):
        offsets.block_size(number, size)


def test_full_last_block_is_followed_by_one_with_an_empty_chunk() -> None:
    assert offsets.block_count(65535) == 1
    assert offsets.block_count(65536) == 2
    assert offsets.block_size(0, 65536) == 65600
    assert offsets.block_size(1, 65536) == 16
