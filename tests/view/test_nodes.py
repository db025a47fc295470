"""Inode numbers: from content alone, and never twice."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ovfuse.errors import DamagedError
from ovfuse.view.nodes import NO_PAYLOAD, ROOT_NUMBER, Numbers, node_number


def test_number_is_that_of_its_description() -> None:
    digest = hashlib.sha256(b"\xab" * 32 + b"\0\0\0\x05" + b"org/m" + b"a/b").digest()

    assert node_number("ab" * 32, "org/m", "a/b") == int.from_bytes(digest[:8], "big")


def test_numbers_known_from_before() -> None:
    """A process that takes over a mount must compute these.

    (head -c32 /dev/zero; printf '\\0\\0\\0\\5model') | sha256sum
    """
    assert node_number(NO_PAYLOAD, "model", "") == 0xC3307378B1DC770B
    assert node_number("01" * 32, "", "weights.bin") == 0xB6548187CB367583


def test_place_and_path_do_not_run_together() -> None:
    numbers = {
        node_number(NO_PAYLOAD, place, path)
        for place, path in [("ab", "c"), ("a", "bc"), ("", "abc"), ("abc", "")]
    }

    assert len(numbers) == 4


@given(st.binary(min_size=32, max_size=32), st.text(max_size=20), st.text(max_size=20))
def test_numbers_have_64_bits(payload: bytes, place: str, path: str) -> None:
    try:
        number = node_number(payload.hex(), place, path)
    except UnicodeEncodeError:
        return

    assert 0 <= number < 2**64


@pytest.mark.parametrize("numbers", [[0], [1], [2, 2], [5], [6, 5], [3, 4, 3]], ids=str)
def test_number_that_is_taken_is_refused_with_all_beside_it(numbers: list[int]) -> None:
    used = Numbers()
    used.claim([5])
    with pytest.raises(DamagedError, match="same inode number"):
        used.claim(numbers)

    used.claim({2, 3, 4, 6})


def test_the_root_is_1() -> None:
    assert ROOT_NUMBER == 1
