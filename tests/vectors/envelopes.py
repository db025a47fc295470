"""The envelope: payload type, base64, signatures, and the form of the payload."""

from __future__ import annotations

import base64
from typing import Any

from tests.support.encryptor import (
    Edits,
    Json,
    SealedFiles,
    base64_text,
    pae,
    public_blob,
    sign,
)
from tests.vectors.build import (
    BASE,
    Vector,
    as_is,
    damaged,
    flipped,
    no_usable_key,
    reenveloped,
    sealed,
    stranger_key,
    success,
    trusted_key,
    untrusted,
    with_edits,
    with_envelope,
    with_plain,
)

GROUP_ORDER = 2**252 + 27742317777372353535851937790883648493


def signed_by(*keys: Any) -> Vector:
    made = sealed()
    return reenveloped(made, sign(made.payload, keys))


def with_signature(**members: str) -> Vector:
    return with_envelope(lambda e: e["signatures"][0].update(members))


def decoded(text: str) -> bytes:
    return base64.b64decode(text)


def signature_of(made: SealedFiles) -> bytes:
    return trusted_key().sign(pae(made.payload))


def over(message: bytes) -> Vector:
    """A model whose signature is over something else than it should be."""
    return with_signature(sig=base64_text(trusted_key().sign(message)))


@success
def envelope() -> Vector:
    """Nothing is wrong: the model that most vectors are made from."""
    return as_is(sealed())


@damaged
def envelope_empty() -> Vector:
    """The envelope is an empty file."""
    return with_edits(Edits(envelope_json=lambda _: b""))


@damaged
def envelope_is_an_array() -> Vector:
    """The envelope is in an array."""
    return with_edits(Edits(envelope_json=lambda data: b"[" + data + b"]"))


@damaged
def envelope_line_feed() -> Vector:
    """A line feed follows the envelope."""
    return with_edits(Edits(envelope_json=lambda data: data + b"\n"))


@damaged
def envelope_space() -> Vector:
    """The envelope has a space after a colon."""
    edit = Edits(envelope_json=lambda data: data.replace(b'":"', b'": "', 1))
    return with_edits(edit)


@damaged
def envelope_members_not_sorted() -> Vector:
    """The signatures come first in the envelope."""

    def edit(data: bytes) -> bytes:
        head, _, signatures = data.partition(b',"signatures":')
        return b'{"signatures":' + signatures[:-1] + b"," + head[1:] + b"}"

    return with_edits(Edits(envelope_json=edit))


@damaged
def envelope_slash_escaped() -> Vector:
    """The slash in the payload type is escaped."""
    edit = Edits(envelope_json=lambda data: data.replace(b"n/vnd", rb"n\/vnd"))
    return with_edits(edit)


@damaged
def envelope_unknown_member() -> Vector:
    """The envelope has a member that is not known."""
    return with_envelope(lambda e: e.update(zzz=""))


@damaged
def envelope_without_payload() -> Vector:
    """The envelope has no payload."""
    return with_envelope(lambda e: e.pop("payload"))


@damaged
def envelope_without_payload_type() -> Vector:
    """The envelope has no payload type."""
    return with_envelope(lambda e: e.pop("payloadType"))


@damaged
def envelope_without_signatures() -> Vector:
    """The envelope has no member `signatures`, not even an empty one."""
    return with_envelope(lambda e: e.pop("signatures"))


@damaged
def payload_type_other() -> Vector:
    """The envelope says another payload type than was signed."""
    return with_envelope(lambda e: e.update(payloadType="application/octet-stream"))


@damaged
def payload_type_signed_other() -> Vector:
    """Said and signed is another payload type, by the right key."""

    def edit(found: Json) -> None:
        payload = decoded(found["payload"])
        kind = found["payloadType"] = "application/vnd.ovfuse.sealing.v2"
        length = str(len(payload)).encode()
        message = b"DSSEv1 33 " + kind.encode() + b" " + length + b" " + payload
        found["signatures"][0]["sig"] = base64_text(trusted_key().sign(message))

    return with_envelope(edit)


@damaged
def base64_payload_without_padding() -> Vector:
    """The payload's base64 lacks its padding."""
    made = with_payload_length(2)
    assert b'="' in made.files[envelope_path(made)]
    made.files[envelope_path(made)] = made.files[envelope_path(made)].replace(
        b'=","payloadType', b'","payloadType'
    )
    return made


@damaged
def base64_payload_of_the_url_alphabet() -> Vector:
    """The payload's base64 has the URL-safe alphabet."""

    def edit(found: Json) -> None:
        found["payload"] = found["payload"].replace("+", "-").replace("/", "_")

    return with_envelope(edit)


@damaged
def base64_payload_with_a_line_feed() -> Vector:
    """The payload's base64 is broken into two lines."""
    return with_envelope(
        lambda e: e.update(payload=e["payload"][:76] + "\n" + e["payload"][76:])
    )


@damaged
def base64_payload_with_loose_bits() -> Vector:
    """The last digit of the payload's base64 has a bit that means nothing."""

    made = with_payload_length(2)
    path = envelope_path(made)
    head, _, tail = made.files[path].partition(b'=","payloadType')
    digits = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"
    last = digits[digits.index(head[-1:]) + 1]
    made.files[path] = head[:-1] + bytes([last]) + b'=","payloadType' + tail
    return made


def with_payload_length(remainder: int) -> Vector:
    """A model whose payload has a length of this remainder by 3."""
    for length in range(3):
        terms: Json = {"machines": [], "not_after": None, "not_before": None}
        made = sealed_with_terms(terms | {"text": "x" * length})
        if len(made.payload) % 3 == remainder:
            return as_is(made)
    raise AssertionError


def sealed_with_terms(terms: Json) -> SealedFiles:
    return sealed(BASE, Edits(manifest=lambda m: m.update(terms=terms)))


def envelope_path(made: Vector) -> str:
    (path,) = (p for p in made.files if p.endswith("/manifest.dsse.json"))
    return path


@damaged
def base64_signature_with_a_space() -> Vector:
    """The signature's base64 begins with a space."""
    return with_envelope(
        lambda e: e["signatures"][0].update(sig=" " + e["signatures"][0]["sig"])
    )


@damaged
def base64_signature_without_padding() -> Vector:
    """The signature's base64 lacks its padding."""
    return with_envelope(
        lambda e: e["signatures"][0].update(sig=e["signatures"][0]["sig"].rstrip("="))
    )


@damaged
def base64_signature_with_loose_bits() -> Vector:
    """The last digit of the signature's base64 has a bit that means nothing."""

    def edit(found: Json) -> None:
        text = found["signatures"][0]["sig"]
        assert text[-3] in "AQgw"
        last = chr(ord(text[-3]) + 1)
        found["signatures"][0]["sig"] = text[:-3] + last + "=="

    return with_envelope(edit)


@damaged
def signature_flipped() -> Vector:
    """A bit of the signature is another."""
    made = sealed()
    data = flipped(0)(signature_of(made))
    return with_signature(sig=base64_text(data))


@damaged
def signature_short() -> Vector:
    """The signature has 63 bytes."""
    return with_signature(sig=base64_text(signature_of(sealed())[:-1]))


@damaged
def signature_long() -> Vector:
    """The signature has 65 bytes."""
    return with_signature(sig=base64_text(signature_of(sealed()) + b"\0"))


@damaged
def signature_empty() -> Vector:
    """The signature has no bytes."""
    return with_signature(sig="")


@damaged
def signature_not_reduced() -> Vector:
    """S of the signature is larger than the group order (RFC 8032, 5.1.7)."""
    data = signature_of(sealed())
    number = int.from_bytes(data[32:], "little") + GROUP_ORDER
    return with_signature(sig=base64_text(data[:32] + number.to_bytes(32, "little")))


@damaged
def signature_of_another_key() -> Vector:
    """The signature is somebody else's, under the key id of the trusted key."""
    made = sealed()
    return with_signature(sig=base64_text(stranger_key().sign(pae(made.payload))))


@damaged
def signature_over_payload() -> Vector:
    """The signature is over the payload without what DSSE puts before it."""
    return over(sealed().payload)


@damaged
def signature_over_base64() -> Vector:
    """The signature is over the base64 of the payload."""
    return over(base64.b64encode(sealed().payload))


@damaged
def signature_bad_beside_a_good_one() -> Vector:
    """A trusted key signed; a second signature, by another key, does not verify."""

    def edit(found: Json) -> None:
        found["signatures"] += sign(b"something else", [stranger_key()])["signatures"]

    return with_envelope(edit)


@damaged
def signature_unknown_member() -> Vector:
    """A signature has a member that is not known."""
    return with_signature(zzz="")


@damaged
def signature_without_key_id() -> Vector:
    """A signature has no key id, which DSSE alone would allow."""
    return with_envelope(lambda e: e["signatures"][0].pop("keyid"))


@damaged
def key_id_of_another_type() -> Vector:
    """The key id is a blob of type ssh-ed25518."""
    raw = trusted_key().public_key().public_bytes_raw()
    blob = public_blob(raw).replace(b"ed25519", b"ed25518")
    return with_signature(keyid=base64_text(blob))


@damaged
def key_id_with_trailing_bytes() -> Vector:
    """A zero byte follows the blob in the key id."""
    raw = trusted_key().public_key().public_bytes_raw()
    return with_signature(keyid=base64_text(public_blob(raw) + b"\0"))


@damaged
def key_id_raw() -> Vector:
    """The key id is the key's 32 bytes without the blob around it."""
    raw = trusted_key().public_key().public_bytes_raw()
    return with_signature(keyid=base64_text(raw))


@untrusted
def unsigned() -> Vector:
    """There is no signature."""
    return signed_by()


@untrusted
def signed_by_a_stranger() -> Vector:
    """The one signature is right, by a key that nobody trusts."""
    return signed_by(stranger_key())


@success
def signed_by_a_stranger_too() -> Vector:
    """The second of two signatures is by the trusted key."""
    return signed_by(stranger_key(), trusted_key())


@success
def signed_twice() -> Vector:
    """The same key signed twice."""
    return signed_by(trusted_key(), trusted_key())


@success
def signatures_16() -> Vector:
    """There are 16 signatures."""
    return with_plain(signers=16)


@damaged
def signatures_17() -> Vector:
    """There are 17 signatures, one more than is allowed."""
    return with_plain(signers=17)


# The payload


def with_payload(edit: Any) -> Vector:
    return with_edits(Edits(payload=edit))


@damaged
def payload_empty() -> Vector:
    """The payload has no bytes."""
    return with_payload(lambda _: b"")


@damaged
def payload_of_3_bytes() -> Vector:
    """The payload ends within the length of the clear facts."""
    return with_payload(lambda data: data[:3])


@damaged
def payload_length_beyond_the_end() -> Vector:
    """The length of the clear facts reaches beyond the payload."""
    return with_payload(lambda data: (4000).to_bytes(4, "big") + data[4:])


@damaged
def payload_length_little_endian() -> Vector:
    """The length of the clear facts is little endian."""
    return with_payload(lambda data: data[3::-1] + data[4:])


@damaged
def payload_length_one_less() -> Vector:
    """The length of the clear facts is one less than it should be."""
    return with_payload(lambda data: data[:3] + bytes([data[3] - 1]) + data[4:])


@damaged
def payload_length_zero() -> Vector:
    """The length of the clear facts is 0."""
    return with_payload(lambda data: bytes(4) + data[4:])


@damaged
def payload_without_manifest() -> Vector:
    """The payload ends after the clear facts."""
    return with_payload(lambda data: data[: 4 + int.from_bytes(data[:4], "big")])


def with_message(edit: Any) -> Vector:
    return with_edits(Edits(manifest_message=edit))


@damaged
def manifest_message_without_chunks() -> Vector:
    """The manifest message ends after the commitment."""
    return with_message(lambda data: data[:56])


@damaged
def manifest_message_cut() -> Vector:
    """The manifest message lacks its last byte."""
    return with_message(lambda data: data[:-1])


@damaged
def manifest_message_longer() -> Vector:
    """A byte follows the manifest message."""
    return with_message(lambda data: data + b"\0")


@damaged
def manifest_message_second_final_chunk() -> Vector:
    """The bytes of the manifest message's chunk follow once more."""
    return with_message(lambda data: data + data[56:])


@damaged
def manifest_message_tag() -> Vector:
    """A bit of the manifest message's tag is another."""
    return with_message(flipped(-1))


@damaged
def manifest_message_ciphertext() -> Vector:
    """A bit of the manifest message's ciphertext is another."""
    return with_message(flipped(56))


@no_usable_key
def manifest_message_salt() -> Vector:
    """A bit of the manifest message's salt is another: no key commits to it."""
    return with_message(flipped(0))


@no_usable_key
def manifest_message_commitment() -> Vector:
    """A bit of the manifest message's commitment is another: no key fits."""
    return with_message(flipped(55))
