"""The publisher's terms: when and where."""

import hmac
from pathlib import Path

import pytest

from ovfuse.errors import TermsError
from ovfuse.sealed.manifest import Terms
from ovfuse.sealed.terms import check_machine, check_period, machine_digest

HERE, THERE = "0a" * 32, "0b" * 32


@pytest.mark.parametrize(
    ("not_before", "not_after", "now"),
    [
        (None, None, 0.0),
        (100, None, 100.0),
        (None, 100, 99.999),
        (100, 200, 100.0),
        (100, 200, 199.999),
        (0, 1, 0.0),
        (0, 2**53 - 1, 1e10),
    ],
)
def test_in_time(not_before: int | None, not_after: int | None, now: float) -> None:
    check_period(Terms(not_before=not_before, not_after=not_after), now)


@pytest.mark.parametrize(
    ("not_before", "not_after", "now", "message"),
    [
        (100, None, 99.999, "not to be used before 1970-01-01 00:01:40 UTC"),
        (None, 100, 100.0, "not to be used since 1970-01-01 00:01:40 UTC"),
        (None, 0, 0.0, "not to be used since 1970-01-01 00:00:00 UTC"),
        (100, 200, 200.0, "not to be used since 1970-01-01 00:03:20 UTC"),
        (2**53 - 1, None, 0.0, "not to be used before second 9007199254740991"),
    ],
)
def test_out_of_time(
    not_before: int | None, not_after: int | None, now: float, message: str
) -> None:
    with pytest.raises(TermsError) as caught:
        check_period(Terms(not_before=not_before, not_after=not_after), now)

    assert caught.value.message == message


@pytest.mark.parametrize(
    ("machines", "machine"),
    [((), HERE), ((), None), ((HERE,), HERE), ((HERE, THERE), THERE)],
)
def test_right_machine(machines: tuple[str, ...], machine: str | None) -> None:
    check_machine(Terms(machines=machines), machine)


@pytest.mark.parametrize("machine", [HERE, None, "", THERE.upper()])
def test_wrong_machine(machine: str | None) -> None:
    with pytest.raises(TermsError, match="not to be used on this machine"):
        check_machine(Terms(machines=(THERE,)), machine)


@pytest.mark.parametrize("end", ["", "\n"])
def test_machine_is_a_hash_of_the_machine_id(tmp_path: Path, end: str) -> None:
    (tmp_path / "id").write_text("00112233445566778899aabbccddeeff" + end)
    key = bytes.fromhex("00112233445566778899aabbccddeeff")

    expected = hmac.digest(key, b"ovfuse.machine.v1", "sha256").hex()
    assert machine_digest(tmp_path / "id") == expected


@pytest.mark.parametrize(
    "text", ["", "uninitialized\n", "0011", "00112233-4455-6677-8899-aabbccddeeff", "é"]
)
def test_no_proper_machine_id(tmp_path: Path, text: str) -> None:
    (tmp_path / "id").write_text(text, encoding="utf-8")

    assert machine_digest(tmp_path / "id") is None


def test_no_machine_id(tmp_path: Path) -> None:
    assert machine_digest(tmp_path / "id") is None
