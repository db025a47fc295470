"""Canonical JSON: one sequence of bytes for one content, all else is refused."""

import base64
import json
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ovfuse.errors import DamagedError
from ovfuse.sealed.canonical import (
    Record,
    decode,
    encode,
)
from tests.support.encryptor import canonical

INTEGER_MAX = 2**53 - 1


class Sample(Record, frozen=True):
    """The kinds of values that the format has."""

    count: int
    items: tuple[str, ...]
    maybe: int | None
    names: dict[str, str]
    text: str


def sample(
    count: str = "1",
    items: str = "[]",
    maybe: str = "null",
    names: str = "{}",
    text: str = '""',
) -> bytes:
    """Return JSON text with some values as written."""
    return (
        f'{{"count":{count},"items":{items},"maybe":{maybe},'
        f'"names":{names},"text":{text}}}'
    ).encode("utf-8", "surrogatepass")


GOOD = [
    sample(),
    sample(count="0"),
    sample(count=str(INTEGER_MAX)),
    sample(maybe="7"),
    sample(items='["b","a","b"]'),
    sample(names='{"":"","A":"","a":"","a.":"","aa":""}'),
    sample(text=r'"\b\t\n\f\r\"\\"'),
    sample(text=r'"\u0000\u0001\u0007\u000b\u000e\u001f"'),
    sample(text='"/\x7f\x80é\u2028\ufeff\uffff\U0001f98a"'),
]

BAD = {
    "nothing": b"",
    "null": b"null",
    "an array": b"[]",
    "a number": b"1",
    "cut": sample()[:-1],
    "white space before": b" " + sample(),
    "white space after": sample() + b"\n",
    "white space inside": sample(count=" 1"),
    "a second value": sample() + sample(),
    "NUL before": b"\0" + sample(),
    "NUL after": sample() + b"\0",
    "byte order mark": b"\xef\xbb\xbf" + sample(),
    "UTF-16": sample().decode().encode("utf-16"),
    "order": b'{"items":[],"count":1,"maybe":null,"names":{},"text":""}',
    "order of names": sample(names='{"b":"","a":""}'),
    "same member twice": b'{"count":1,' + sample()[1:],
    "other member twice": b'{"count":2,' + sample()[1:],
    "name twice": sample(names='{"a":"","a":""}'),
    "unknown member": sample()[:-1] + b',"zeal":1}',
    "missing member": b'{"count":1,"items":[],"maybe":null,"names":{}}',
    "missing member that may be null": b'{"count":1,"items":[],"names":{},"text":""}',
    "escaped member": sample().replace(b'"count"', rb'"\u0063ount"'),
    "comment": sample() + b"//",
    "trailing comma": sample()[:-1] + b",}",
    "single quotes": sample(text="''"),
    "escaped letter": sample(text=r'"\u0041"'),
    "escaped slash": sample(text=r'"\/"'),
    "escaped é": sample(text=r'"\u00e9"'),
    "escaped pair": sample(text=r'"\ud83e\udd8a"'),
    "upper-case escape": sample(text=r'"\u001F"'),
    "long escape of a tab": sample(text=r'"\u0009"'),
    "long escape of a quote": sample(text=r'"\u0022"'),
    "unknown escape": sample(text=r'"\a"'),
    "control character": sample(text='"\x01"'),
    "line feed in a string": sample(text='"\n"'),
    "escaped lone surrogate": sample(text=r'"\ud800"'),
    "lone surrogate": sample(text='"\ud800"'),
    "surrogate in a name": sample(names=r'{"\udfff":""}'),
    "not UTF-8": sample(text='"?"').replace(b"?", b"\xff"),
    "overlong UTF-8": sample(text='"?"').replace(b"?", b"\xc0\xaf"),
    "float": sample(count="1.0"),
    "fraction": sample(count="1.5"),
    "exponent": sample(count="1e1"),
    "minus zero": sample(count="-0"),
    "plus": sample(count="+1"),
    "leading zero": sample(count="01"),
    "hexadecimal": sample(count="0x1"),
    "NaN": sample(count="NaN"),
    "infinity": sample(count="Infinity"),
    "number of 5,000 digits": sample(count="9" * 5000),
    "number as a string": sample(count='"1"'),
    "true as a number": sample(count="true"),
    "null as a number": sample(count="null"),
    "number as a string value": sample(text="1"),
    "null as a string": sample(text="null"),
    "object as an array": sample(items="{}"),
    "array as an object": sample(names="[]"),
    "number in an array": sample(items="[1]"),
    "nested array": sample(items='[["a"]]'),
    "deep arrays": b"[" * 200_000,
    "deep arrays in a member": sample(items="[" * 200_000),
    "deep objects": b'{"names":' * 200_000,
    "deep unknown member": sample()[:-1] + b',"zeal":' + b"[" * 200_000,
}


@pytest.mark.parametrize("data", GOOD)
def test_canonical_json_is_read_and_written_the_same(data: bytes) -> None:
    record = decode(data, Sample, "sample")

    assert encode(record) == data
    assert canonical(json.loads(data)) == data


@pytest.mark.parametrize("data", BAD.values(), ids=BAD)
def test_anything_else_is_refused(data: bytes) -> None:
    with pytest.raises(DamagedError) as caught:
        decode(data, Sample, "sample")

    assert caught.value.message.startswith("the sample is ")


def test_errors_do_not_quote_the_content() -> None:
    with pytest.raises(DamagedError) as caught:
        decode(sample(names='{"secret":1}'), Sample, "sample")

    assert "secret" not in str(caught.value)
    assert caught.value.__suppress_context__


texts = st.text(st.characters(exclude_categories=["Cs"]))
ascii_names = st.text(st.characters(max_codepoint=0x7F))


@given(
    st.integers(0, INTEGER_MAX),
    st.lists(texts),
    st.none() | st.integers(0, INTEGER_MAX),
    st.dictionaries(ascii_names, texts),
    texts,
)
def test_any_content_is_written_as_python_writes_it(
    count: int,
    items: list[str],
    maybe: int | None,
    names: Mapping[str, str],
    text: str,
) -> None:
    record = Sample(
        count=count, items=tuple(items), maybe=maybe, names=dict(names), text=text
    )
    data = encode(record)

    assert data == canonical(
        {"count": count, "items": items, "maybe": maybe, "names": names, "text": text}
    )
    assert decode(data, Sample, "sample") == record


@given(st.binary())
def test_random_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(DamagedError):
        decode(data, Sample, "sample")


class Blob(Record, frozen=True):
    data: bytes


def blob(text: str) -> bytes:
    return b'{"data":%b}' % json.dumps(text, ensure_ascii=False).encode()


@given(st.binary())
def test_base64_is_that_of_everybody(data: bytes) -> None:
    found = blob(base64.b64encode(data).decode())
    assert encode(Blob(data=data)) == found
    assert decode(found, Blob, "x").data == data


@pytest.mark.parametrize(
    "text",
    [
        "A",
        "AA",
        "AAA",
        "AA=",
        "AAAA=",
        "AAAA====",
        "=",
        "AA==AA==",
        " AAAA",
        "AAAA\n",
        "AA AA",
        "AB==",  # bits that are lost
        "AAB=",
        "__--",  # the other alphabet
        "é===",
        "\0\0\0\0",
    ],
)
def test_other_base64_is_refused(text: str) -> None:
    with pytest.raises(DamagedError):
        decode(blob(text), Blob, "x")


def test_records_are_immutable() -> None:
    record = decode(sample(), Sample, "sample")

    with pytest.raises(AttributeError):
        record.count = 2  # type: ignore[misc] # the point of the test
