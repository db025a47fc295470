"""Canonical JSON, in the clear facts and in the manifest, and the clear facts."""

from __future__ import annotations

from collections.abc import Callable

from tests.support.encryptor import Edits, Plain
from tests.vectors.build import (
    Vector,
    damaged,
    replaced,
    success,
    with_edits,
    with_manifest,
    with_manifest_json,
    with_plain,
)


def with_text(written: bytes) -> Vector:
    """A manifest whose terms have a text that is written so."""
    return with_manifest_json(replaced(b'"text":""', b'"text":"' + written + b'"'))


@damaged
def json_empty() -> Vector:
    """The manifest has no bytes."""
    return with_manifest_json(lambda _: b"")


@damaged
def json_null() -> Vector:
    """The manifest is `null`."""
    return with_manifest_json(lambda _: b"null")


@damaged
def json_in_an_array() -> Vector:
    """The manifest is in an array."""
    return with_manifest_json(lambda data: b"[" + data + b"]")


@damaged
def json_twice() -> Vector:
    """The manifest is there twice, one after the other."""
    return with_manifest_json(lambda data: data + data)


@damaged
def json_cut() -> Vector:
    """The manifest lacks its last brace."""
    return with_manifest_json(lambda data: data[:-1])


@damaged
def json_line_feed() -> Vector:
    """A line feed follows the manifest."""
    return with_manifest_json(lambda data: data + b"\n")


@damaged
def json_zero_byte() -> Vector:
    """A zero byte follows the manifest."""
    return with_manifest_json(lambda data: data + b"\0")


@damaged
def json_byte_order_mark() -> Vector:
    """The manifest begins with a byte order mark."""
    return with_manifest_json(lambda data: b"\xef\xbb\xbf" + data)


@damaged
def json_utf_16() -> Vector:
    """The manifest is in UTF-16."""
    return with_manifest_json(lambda data: data.decode().encode("utf-16-le"))


@damaged
def json_space() -> Vector:
    """The manifest has a space after a comma."""
    return with_manifest_json(replaced(b',"name"', b', "name"'))


@damaged
def json_comma_at_the_end() -> Vector:
    """The manifest's list of directories ends with a comma."""
    return with_manifest_json(replaced(b'["d"]', b'["d",]'))


@damaged
def json_single_quotes() -> Vector:
    """A string of the manifest is in single quotes."""
    return with_manifest_json(replaced(b'"model"', b"'model'"))


@damaged
def json_not_sorted() -> Vector:
    """Two members of the manifest are in the wrong order."""
    edit = replaced(
        b'"name":"model","previous":null', b'"previous":null,"name":"model"'
    )
    return with_manifest_json(edit)


@damaged
def json_member_twice() -> Vector:
    """The manifest has its name twice, both the same."""
    edit = replaced(b'"name":"model"', b'"name":"model","name":"model"')
    return with_manifest_json(edit)


@damaged
def json_inner_member_twice() -> Vector:
    """The terms have two texts, the first of them not the same."""
    return with_manifest_json(replaced(b'"text":""', b'"text":"x","text":""'))


@damaged
def json_extension_twice() -> Vector:
    """The extensions have one name twice."""
    edit = replaced(b'"extensions":{}', b'"extensions":{"x":"1","x":"1"}')
    return with_manifest_json(edit)


@damaged
def json_unknown_member() -> Vector:
    """The manifest has a member that is not known."""
    return with_manifest(lambda m: m.update(zzz=None))


@damaged
def json_unknown_member_of_a_file() -> Vector:
    """A file in the manifest has a member that is not known."""
    return with_manifest(lambda m: m["files"][0].update(mode=0))


@damaged
def json_unknown_member_of_the_terms() -> Vector:
    """The terms have a member that is not known."""
    return with_manifest(lambda m: m["terms"].update(zzz=None))


@damaged
def json_member_missing() -> Vector:
    """The manifest lacks `previous`, which could have been `null`."""
    return with_manifest(lambda m: m.pop("previous"))


@damaged
def json_member_of_a_file_missing() -> Vector:
    """A file in the manifest lacks its `padded_size`."""
    return with_manifest(lambda m: m["files"][0].pop("padded_size"))


@damaged
def json_member_of_the_terms_missing() -> Vector:
    """The terms lack their `text`."""
    return with_manifest(lambda m: m["terms"].pop("text"))


@damaged
def json_null_for_an_array() -> Vector:
    """There is `null` where an array has to be."""
    return with_manifest(lambda m: m.update(critical=None))


@damaged
def json_null_for_a_string() -> Vector:
    """There is `null` where a string has to be."""
    return with_manifest(lambda m: m["terms"].update(text=None))


@damaged
def json_string_for_a_number() -> Vector:
    """A size is a string."""
    return with_manifest(lambda m: m["files"][0].update(size="3"))


@damaged
def json_boolean_for_a_number() -> Vector:
    """A size of 1 is `true`."""
    plain = Plain(files={"a": b"x"})
    return with_manifest(lambda m: m["files"][0].update(size=True), plain)


@damaged
def json_number_for_a_string() -> Vector:
    """The name is a number."""
    return with_manifest(lambda m: m.update(name=1))


@damaged
def json_object_for_an_array() -> Vector:
    """There is an object where an array has to be."""
    return with_manifest(lambda m: m.update(critical={}))


def with_size(written: bytes) -> Vector:
    """A manifest in which the size 3 of the file is written so."""
    plain = Plain(files={"a": b"abc"})
    return with_manifest_json(
        replaced(b'"size":3}', b'"size":' + written + b"}"), plain
    )


@damaged
def json_number_with_fraction() -> Vector:
    """A size is written 3.0."""
    return with_size(b"3.0")


@damaged
def json_number_with_exponent() -> Vector:
    """A size is written 3e0."""
    return with_size(b"3e0")


@damaged
def json_number_with_leading_zero() -> Vector:
    """A size is written 03."""
    return with_size(b"03")


@damaged
def json_number_with_plus() -> Vector:
    """A size is written +3."""
    return with_size(b"+3")


@damaged
def json_number_negative() -> Vector:
    """A size is -3."""
    return with_size(b"-3")


@damaged
def json_number_not_a_number() -> Vector:
    """A size is NaN, which some libraries read."""
    return with_size(b"NaN")


@damaged
def json_number_minus_zero() -> Vector:
    """The size of an empty file is written -0."""
    plain = Plain(files={"a": b""})
    return with_manifest_json(replaced(b'"size":0}', b'"size":-0}'), plain)


@damaged
def json_number_too_large() -> Vector:
    """A time is 2^53, one more than the largest number."""
    return with_manifest(lambda m: m["terms"].update(not_after=2**53))


@success
def json_number_largest() -> Vector:
    """A time is 2^53-1, the largest number."""
    return with_manifest(lambda m: m["terms"].update(not_after=2**53 - 1))


@success
def json_every_escape() -> Vector:
    """All characters below U+0020, and those around them, are in a text."""
    text = "".join(map(chr, range(0x80)))
    text += "\x80\xa0é\u2028\u2029\ufeff\uffff\U0010ffff"
    return with_manifest(lambda m: m["terms"].update(text=text))


@damaged
def json_escaped_slash() -> Vector:
    """A slash is escaped."""
    return with_text(rb"\/")


@damaged
def json_escaped_letter() -> Vector:
    """A letter is escaped."""
    return with_text(rb"\u0041")


@damaged
def json_escaped_letter_beyond_ascii() -> Vector:
    """A letter beyond ASCII is escaped, and not in UTF-8."""
    return with_text(rb"\u00e9")


@damaged
def json_escaped_pair() -> Vector:
    """A character beyond U+FFFF is escaped as two surrogates."""
    return with_text(rb"\ud83d\ude00")


@damaged
def json_escaped_delete() -> Vector:
    """U+007F is escaped, as some libraries do."""
    return with_text(rb"\u007f")


@damaged
def json_long_escape() -> Vector:
    r"""A line feed is escaped as \u000a instead of \n."""
    return with_text(rb"\u000a")


@damaged
def json_escape_in_upper_case() -> Vector:
    """U+001F is escaped with an upper-case digit."""
    return with_text(rb"\u001F")


@damaged
def json_not_escaped() -> Vector:
    """A line feed in a string is not escaped."""
    return with_text(b"\n")


@damaged
def json_lone_surrogate() -> Vector:
    """A string has an escaped surrogate that no other one follows."""
    return with_text(rb"\ud800")


@damaged
def json_surrogate_in_utf_8() -> Vector:
    """A string has a surrogate as UTF-8 would encode it."""
    return with_text(b"\xed\xa0\x80")


@damaged
def json_overlong_utf_8() -> Vector:
    """A string has a slash in two bytes."""
    return with_text(b"\xc0\xaf")


@damaged
def json_latin_1() -> Vector:
    """A string has a byte that is not UTF-8."""
    return with_text(b"\xe9")


@damaged
def json_deep() -> Vector:
    """In the place of the extensions there are 5,000 arrays, one in the other."""
    deep = b"[" * 5000 + b"]" * 5000
    return with_manifest_json(replaced(b'"extensions":{}', b'"extensions":' + deep))


# Clear facts


def with_facts(**members: object) -> Vector:
    """Clear facts with other values, which the manifest repeats."""
    return with_edits(Edits(clear_facts=lambda f: f.update(members)))


def with_facts_json(edit: Callable[[bytes], bytes]) -> Vector:
    return with_edits(Edits(clear_facts_json=edit))


@damaged
def facts_format_2() -> Vector:
    """The clear facts have another format than the pointer."""
    return with_facts(format=2)


@damaged
def facts_of_another_seal_id() -> Vector:
    """The clear facts have another seal id than pointer and directory."""
    return with_facts(seal_id="0" * 32)


@damaged
def facts_model_id_short() -> Vector:
    """The model id has 31 characters."""
    return with_facts(model_id="0" * 31)


@damaged
def facts_model_id_upper_case() -> Vector:
    """The model id is in upper case."""
    return with_facts(model_id="A" * 32)


@damaged
def facts_version_0() -> Vector:
    """The version is 0; the first one is 1."""
    return with_facts(version=0)


@damaged
def facts_version_too_large() -> Vector:
    """The version is 2^53."""
    return with_facts(version=2**53)


@success
def facts_version_largest() -> Vector:
    """The version is 2^53-1."""
    return with_plain(version=2**53 - 1)


@damaged
def facts_time_too_large() -> Vector:
    """The sealing time is 2^33+1."""
    return with_facts(sealed_at=2**33 + 1)


@success
def facts_time_largest() -> Vector:
    """The sealing time is 2^33."""
    return with_plain(sealed_at=2**33)


@success
def facts_time_zero() -> Vector:
    """The sealing time is 0."""
    return with_plain(sealed_at=0)


@damaged
def facts_time_negative() -> Vector:
    """The sealing time is before 1970."""
    return with_facts(sealed_at=-1)


@damaged
def facts_time_null() -> Vector:
    """The sealing time is `null`."""
    return with_facts(sealed_at=None)


@damaged
def facts_unknown_member() -> Vector:
    """The clear facts have a member that is not known; the manifest repeats it."""
    return with_facts(zzz=1)


@damaged
def facts_space() -> Vector:
    """The clear facts have a space after a comma."""
    return with_facts_json(lambda data: data.replace(b",", b", ", 1))


@damaged
def facts_line_feed() -> Vector:
    """A line feed follows the clear facts."""
    return with_facts_json(lambda data: data + b"\n")


@damaged
def facts_not_sorted() -> Vector:
    """The format is the last of the clear facts."""
    return with_facts_json(lambda data: b"{" + data[12:-1] + b',"format":1}')


@damaged
def facts_format_twice() -> Vector:
    """The clear facts have their format twice."""
    return with_facts_json(replaced(b'"format":1', b'"format":1,"format":1'))


@damaged
def facts_of_the_manifest_differ() -> Vector:
    """The manifest repeats the clear facts with another version."""
    return with_manifest(lambda m: m["facts"].update(version=2))


@damaged
def facts_of_the_manifest_missing() -> Vector:
    """The manifest does not repeat the clear facts."""
    return with_manifest(lambda m: m.pop("facts"))
