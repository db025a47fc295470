"""Key files, which no signature covers: what is skipped, and what opens the model."""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence

from tests.vectors.age import (
    Stanza,
    age_file,
    grease,
    scrypt,
    x25519,
    x25519_of_nobody,
)
from tests.vectors.build import (
    Vector,
    as_is,
    flipped,
    key_path,
    no_usable_key,
    recipient,
    sealed,
    success,
)

PASSPHRASE = "correct horse"
FIRST, LAST = "0" * 32, "f" * 32


def with_key(
    plaintext: Callable[[bytes], bytes] = lambda key: key,
    stanzas: Sequence[Stanza] | None = None,
    edit: Callable[[bytes], bytes] = lambda data: data,
) -> Vector:
    """A model whose only key file has another plaintext, header, or form."""
    made = sealed()
    data = age_file(
        plaintext(made.model_key), stanzas or [x25519(recipient())], "other"
    )
    made.files[key_path(made)] = edit(data)
    return as_is(made)


def beside(name: str, data: bytes) -> Vector:
    """A model that has another key file beside the right one."""
    made = sealed()
    made.files[made.path_of(f"keys/{name}.age")] = data
    return as_is(made)


def renamed(name: str) -> Vector:
    """A model whose only key file has another name."""
    made = sealed()
    data = made.files.pop(key_path(made))
    made.files[made.path_of(f"keys/{name}")] = data
    return as_is(made)


@no_usable_key
def key_of_31_bytes() -> Vector:
    """The key file holds 31 bytes of the model key."""
    return with_key(lambda key: key[:-1])


@no_usable_key
def key_of_33_bytes() -> Vector:
    """The key file holds the model key and one byte more."""
    return with_key(lambda key: key + b"\0")


@no_usable_key
def key_of_no_bytes() -> Vector:
    """The key file holds nothing."""
    return with_key(lambda _: b"")


@no_usable_key
def key_in_hex() -> Vector:
    """The key file holds the model key in hex."""
    return with_key(lambda key: key.hex().encode())


@no_usable_key
def key_of_another_sealing() -> Vector:
    """The key file holds 32 bytes that are not the model key."""
    return with_key(lambda _: b"x" * 32)


@no_usable_key
def key_for_somebody_else() -> Vector:
    """The key file is for another recipient."""
    return with_key(stanzas=[x25519_of_nobody(0)])


@no_usable_key
def key_files_none() -> Vector:
    """There is a directory `keys`, and no key file in it."""
    return renamed("README")


@success
def key_after_another_one() -> Vector:
    """The first key file, for the same identity, holds another key."""
    return beside(FIRST, age_file(b"x" * 32, [x25519(recipient())], "first"))


@success
def key_before_another_one() -> Vector:
    """The last key file, for the same identity, holds another key."""
    return beside(LAST, age_file(b"x" * 32, [x25519(recipient())], "last"))


@success
def key_after_a_short_one() -> Vector:
    """The first key file, for the same identity, holds 31 bytes."""
    return beside(FIRST, age_file(b"x" * 31, [x25519(recipient())], "first"))


@success
def key_after_what_is_not_age() -> Vector:
    """The first key file is not an age file."""
    return beside(FIRST, b"not an age file\n")


@success
def key_after_an_empty_file() -> Vector:
    """The first key file is empty."""
    return beside(FIRST, b"")


@success
def key_twice() -> Vector:
    """Two key files hold the model key for the same identity."""
    made = sealed()
    made.files[made.path_of(f"keys/{FIRST}.age")] = made.files[key_path(made)]
    return as_is(made)


@success
def key_file_of_another_name() -> Vector:
    """The name of the key file is not the one that a writer would give it."""
    return renamed(f"{FIRST}.age")


@no_usable_key
def key_file_name_short() -> Vector:
    """The only key file has 31 characters before `.age`."""
    return renamed(f"{FIRST[1:]}.age")


@no_usable_key
def key_file_name_upper_case() -> Vector:
    """The only key file has upper-case letters in its name."""
    return renamed("A" * 32 + ".age")


@no_usable_key
def key_file_name_without_suffix() -> Vector:
    """The only key file's name does not end in `.age`."""
    return renamed(FIRST)


@success
def key_for_two_recipients() -> Vector:
    """The key file is for two recipients; the second is the right one."""
    return with_key(stanzas=[x25519_of_nobody(0), x25519(recipient())])


def strangers(count: int) -> list[Stanza]:
    return [x25519_of_nobody(number) for number in range(count)]


@success
def key_file_with_8_stanzas() -> Vector:
    """The key file has 8 stanzas, the first of them grease; the last one fits."""
    return with_key(stanzas=[grease(10), *strangers(6), x25519(recipient())])


@no_usable_key
def key_file_with_9_stanzas() -> Vector:
    """The key file has 9 stanzas, one more than is allowed; the last one fits."""
    return with_key(stanzas=[*strangers(8), x25519(recipient())])


@no_usable_key
def key_file_with_9_stanzas_and_grease() -> Vector:
    """The key file has 9 stanzas; the first of them is grease, and counts."""
    return with_key(stanzas=[grease(10), *strangers(7), x25519(recipient())])


@no_usable_key
def key_file_too_large() -> Vector:
    """The key file has more than 65,536 bytes, most of them grease."""
    return with_key(stanzas=[grease(50000), x25519(recipient())])


@no_usable_key
def key_file_armored() -> Vector:
    """The key file is an age file in ASCII armor; it has to be binary."""

    def edit(data: bytes) -> bytes:
        text = base64.b64encode(data)
        lines = [text[n : n + 64] for n in range(0, len(text), 64)]
        name = b"AGE ENCRYPTED FILE-----"
        return b"\n".join([b"-----BEGIN " + name, *lines, b"-----END " + name, b""])

    return with_key(edit=edit)


@no_usable_key
def key_file_of_age_2() -> Vector:
    """The key file begins with another version of age."""
    return with_key(edit=lambda data: data.replace(b"/v1", b"/v2", 1))


@no_usable_key
def key_file_header_mac() -> Vector:
    """A bit of the key file's header MAC is another."""

    def edit(data: bytes) -> bytes:
        return flipped(data.index(b"\n--- ") + 20)(data)

    return with_key(edit=edit)


@no_usable_key
def key_file_cut() -> Vector:
    """The key file lacks its last byte."""
    return with_key(edit=lambda data: data[:-1])


@no_usable_key
def key_file_longer() -> Vector:
    """A byte follows the age file."""
    return with_key(edit=lambda data: data + b"\0")


# Passphrases


def with_passphrase(*stanzas: Stanza, said: str = PASSPHRASE) -> Vector:
    """A model that only a passphrase opens; `said` is what the user says."""
    made = with_key(stanzas=stanzas)
    made.options = {"passphrase": said}
    return made


@success
def passphrase() -> Vector:
    """The only key file is for a passphrase, which the user knows."""
    return with_passphrase(scrypt(PASSPHRASE, 10))


@no_usable_key
def passphrase_wrong() -> Vector:
    """The only key file is for a passphrase, and the user says another."""
    return with_passphrase(scrypt(PASSPHRASE, 10), said="Correct horse")


@no_usable_key
def passphrase_not_asked_for() -> Vector:
    """The work factor is 2^21: refused before the user is asked for a passphrase."""
    made = with_passphrase(scrypt(PASSPHRASE, 10, "21"))
    made.options = {"passphrase": None}
    return made


@no_usable_key
def passphrase_work_factor_with_leading_zero() -> Vector:
    """The work factor is written 010."""
    return with_passphrase(scrypt(PASSPHRASE, 10, "010"))


@no_usable_key
def passphrase_work_factor_huge() -> Vector:
    """The work factor is larger than 64 bits."""
    return with_passphrase(scrypt(PASSPHRASE, 10, "99999999999999999999"))


@no_usable_key
def passphrase_with_a_recipient() -> Vector:
    """One key file has a stanza for a passphrase and one for another recipient."""
    return with_passphrase(scrypt(PASSPHRASE, 10), x25519_of_nobody(0))
