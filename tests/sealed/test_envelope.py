"""The envelope and the clear facts: every rule, before any key is needed."""

import base64
import hashlib
import json
import tracemalloc
from collections.abc import Callable

import pytest

from ovfuse.errors import DamagedError
from ovfuse.sealed import layout
from ovfuse.sealed.envelope import Envelope, make_envelope, make_payload, pae
from ovfuse.sealed.envelope import parse_envelope as parse
from ovfuse.sealed.signing import SigningKey, is_trusted
from tests.support import encryptor
from tests.support.encryptor import Edits, Json, Plain, encrypt
from tests.support.sealed import signers_of

PLAIN = Plain(files={"a": b"a"})
SEAL_ID = encrypt(PLAIN, "envelope").seal_id
OTHER_ID = "ab" * 16


def sealed(edits: Edits, signers: int = 1) -> encryptor.SealedFiles:
    return encrypt(Plain(files={"a": b"a"}, signers=signers), "envelope", edits)


def parse_sealed(made: encryptor.SealedFiles) -> Envelope:
    return parse(made.files[made.envelope_path], SEAL_ID)


def test_pae_is_that_of_dsse(monkeypatch: pytest.MonkeyPatch) -> None:
    # The example of DSSE's protocol.md.
    monkeypatch.setattr(layout, "PAYLOAD_TYPE", "http://example.com/HelloWorld")

    expected = b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
    assert pae(b"hello world") == expected


def test_pae_is_that_of_the_document() -> None:
    assert pae(b"hello world") == (
        b"DSSEv1 33 application/vnd.ovfuse.sealing.v1 11 hello world"
    )
    assert pae(b"") == b"DSSEv1 33 application/vnd.ovfuse.sealing.v1 0 "


def test_payload_is_length_facts_and_message() -> None:
    assert make_payload(b"facts", b"message") == b"\0\0\0\x05factsmessage"


def test_envelope_says_what_needs_no_key() -> None:
    made = sealed(encryptor.NO_EDITS, signers=2)
    envelope = parse_sealed(made)

    assert envelope.facts.version == 1
    assert envelope.facts.sealed_at == encryptor.SEALED_AT
    assert envelope.facts.model_id == made.model_id
    assert envelope.clear_facts == made.clear_facts
    assert envelope.payload_sha256 == hashlib.sha256(made.payload).hexdigest()
    assert list(envelope.signers) == signers_of(made)
    end = 4 + len(envelope.clear_facts)
    assert envelope.manifest_message == made.payload[end:]


def test_envelope_that_is_made_is_read_again() -> None:
    payload = sealed(encryptor.NO_EDITS).payload
    keys = [SigningKey.generate("one"), SigningKey.generate("two")]
    envelope = parse(make_envelope(payload, keys), SEAL_ID)

    assert envelope.signers == tuple(key.public for key in keys)


def test_unsigned_envelope_is_whole_and_trusted_by_nobody() -> None:
    made = sealed(encryptor.NO_EDITS, signers=0)
    envelope = parse_sealed(made)

    assert envelope.signers == ()
    assert not is_trusted(envelope.signers, {SigningKey.generate().public})


def test_16_signatures_are_allowed() -> None:
    assert len(parse_sealed(sealed(encryptor.NO_EDITS, signers=16)).signers) == 16


def _replace(name: str, value: object) -> Callable[[Json], None]:
    def edit(target: Json) -> None:
        target[name] = value

    return edit


def _edit_payload(edit: Callable[[bytes], bytes]) -> Callable[[Json], None]:
    """Change the payload after it was signed."""

    def apply(envelope: Json) -> None:
        payload = base64.b64decode(envelope["payload"])
        envelope["payload"] = base64.b64encode(edit(payload)).decode()

    return apply


def _signature(name: str, edit: Callable[[str], object]) -> Callable[[Json], None]:
    def apply(envelope: Json) -> None:
        (signature,) = envelope["signatures"]
        signature[name] = edit(signature[name])

    return apply


def _recode(edit: Callable[[bytes], bytes]) -> Callable[[str], str]:
    return lambda text: base64.b64encode(edit(base64.b64decode(text))).decode()


BAD_ENVELOPES = {
    "other payload type": _replace("payloadType", "application/vnd.in-toto+json"),
    "payload type in capitals": _replace("payloadType", encryptor.PAYLOAD_TYPE.upper()),
    "no payload": lambda e: e.pop("payload"),
    "payload null": _replace("payload", None),
    "payload empty": _replace("payload", ""),
    "payload not base64": _replace("payload", "*"),
    "payload without padding": lambda e: e.update(payload="AAA"),
    "payload of 3 bytes": _replace("payload", "AAAA"),
    "no signatures": lambda e: e.pop("signatures"),
    "signatures null": _replace("signatures", None),
    "signature a string": _replace("signatures", ["x"]),
    "unknown member": _replace("zeal", 1),
    "signed payload longer": _edit_payload(lambda p: p + b"\0"),
    "signed payload shorter": _edit_payload(lambda p: p[:-1]),
    "signed payload other": _edit_payload(lambda p: p[:-1] + bytes([p[-1] ^ 1])),
    "key id not base64": _signature("keyid", lambda _: "?"),
    "key id empty": _signature("keyid", lambda _: ""),
    "key id of another key": _signature(
        "keyid", _recode(lambda b: b[:-32] + bytes(32))
    ),
    "key id of another type": _signature(
        "keyid", _recode(lambda b: b.replace(b"ssh-ed25519", b"ssh-ed25518"))
    ),
    "key id too long": _signature("keyid", _recode(lambda b: b + b"\0")),
    "key id a bare key": _signature("keyid", _recode(lambda b: b[-32:])),
    "key id a fingerprint": _signature("keyid", lambda _: "SHA256:abc"),
    "key id null": _signature("keyid", lambda _: None),
    "no key id": lambda e: e["signatures"][0].pop("keyid"),
    "signature short": _signature("sig", _recode(lambda s: s[:-1])),
    "signature long": _signature("sig", _recode(lambda s: s + b"\0")),
    "signature empty": _signature("sig", lambda _: ""),
    "signature of zeros": _signature("sig", _recode(lambda s: bytes(len(s)))),
    "signature not base64": _signature("sig", lambda s: s[:-1]),
    "signature with a comment": lambda e: e["signatures"][0].update(x=1),
    "one good and one bad signature": lambda e: e["signatures"].append(
        {**e["signatures"][0], "sig": base64.b64encode(bytes(64)).decode()}
    ),
}


@pytest.mark.parametrize("edit", BAD_ENVELOPES.values(), ids=BAD_ENVELOPES)
def test_bad_envelope(edit: Callable[[Json], object]) -> None:
    made = sealed(Edits(envelope=edit))
    with pytest.raises(DamagedError):
        parse_sealed(made)


def test_17_signatures_are_too_many() -> None:
    with pytest.raises(DamagedError, match="too many signatures"):
        parse_sealed(sealed(encryptor.NO_EDITS, signers=17))


def test_many_signatures_are_refused_before_they_take_memory() -> None:
    made = sealed(encryptor.NO_EDITS)
    empty = b'{"keyid":"","sig":""},' * 500_000
    text = made.files[made.envelope_path]
    text = text.replace(b'"signatures":[', b'"signatures":[' + empty)
    tracemalloc.start()
    try:
        with pytest.raises(DamagedError):
            parse(text, SEAL_ID)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert peak < 1_000_000


def test_white_space_in_an_envelope_is_refused() -> None:
    made = sealed(encryptor.NO_EDITS)
    data = json.dumps(json.loads(made.files[made.envelope_path]), indent=1).encode()
    with pytest.raises(DamagedError, match="canonical"):
        parse(data, SEAL_ID)


BAD_FACTS = {
    "format 2": _replace("format", 2),
    "format 0": _replace("format", 0),
    "format a string": _replace("format", "1"),
    "format true": _replace("format", True),
    "no format": lambda f: f.pop("format"),
    "other seal id": _replace("seal_id", OTHER_ID),
    "seal id in capitals": lambda f: f.update(seal_id=f["seal_id"].upper()),
    "seal id with a line feed": lambda f: f.update(seal_id=f["seal_id"] + "\n"),
    "no model id": lambda f: f.pop("model_id"),
    "short model id": _replace("model_id", "ab"),
    "long model id": _replace("model_id", "ab" * 17),
    "model id in capitals": _replace("model_id", "AB" * 16),
    "model id with a line feed": _replace("model_id", "ab" * 16 + "\n"),
    "model id null": _replace("model_id", None),
    "version 0": _replace("version", 0),
    "version -1": _replace("version", -1),
    "version too large": _replace("version", 2**53),
    "version huge": _replace("version", 2**64),
    "version a float": _replace("version", 1.0),
    "version a string": _replace("version", "1"),
    "time negative": _replace("sealed_at", -1),
    "time after 2^33": _replace("sealed_at", 2**33 + 1),
    "time a float": _replace("sealed_at", 1.5),
    "unknown member": _replace("zeal", 1),
}


@pytest.mark.parametrize("edit", BAD_FACTS.values(), ids=BAD_FACTS)
def test_bad_clear_facts(edit: Callable[[Json], object]) -> None:
    made = sealed(Edits(clear_facts=edit))
    with pytest.raises(DamagedError):
        parse_sealed(made)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("version", 2**53 - 1),
        ("sealed_at", 0),
        ("sealed_at", 2**33),
        ("model_id", OTHER_ID),
    ],
)
def test_clear_facts_at_their_limits(name: str, value: object) -> None:
    made = sealed(Edits(clear_facts=_replace(name, value)))

    assert getattr(parse_sealed(made).facts, name) == value


@pytest.mark.parametrize(
    "edit",
    [lambda j: j + b" ", lambda j: b" " + j, lambda j: j[:-1], lambda _: b""],
    ids=["space after", "space before", "cut", "nothing"],
)
def test_clear_facts_must_be_canonical(edit: Callable[[bytes], bytes]) -> None:
    made = sealed(Edits(clear_facts_json=edit))
    with pytest.raises(DamagedError):
        parse_sealed(made)


BAD_PAYLOADS = {
    "empty": lambda _: b"",
    "3 bytes": lambda _: b"\0\0\0",
    "length alone": lambda p: p[:4],
    "length too large by 1": lambda p: (len(p) - 3).to_bytes(4, "big") + p[4:],
    "length 0": lambda p: bytes(4) + p[4:],
    "length 4,097": lambda p: (4097).to_bytes(4, "big") + b" " * 4097 + p,
    "length 2^32 - 1": lambda p: b"\xff" * 4 + p[4:],
    "length little endian": lambda p: p[3::-1] + p[4:],
    "no manifest": lambda p: p[: 4 + int.from_bytes(p[:4], "big")],
    "manifest of 71 bytes": lambda p: p[: 4 + int.from_bytes(p[:4], "big") + 71],
}


@pytest.mark.parametrize("edit", BAD_PAYLOADS.values(), ids=BAD_PAYLOADS)
def test_bad_payload(edit: Callable[[bytes], bytes]) -> None:
    made = sealed(Edits(payload=edit))
    with pytest.raises(DamagedError):
        parse_sealed(made)


def test_clear_facts_of_4096_bytes_are_parsed_and_4097_are_not() -> None:
    message = bytes(72)
    at_cap = make_payload(b"x" * layout.CLEAR_FACTS_MAX_SIZE, message)
    above = make_payload(b"x" * (layout.CLEAR_FACTS_MAX_SIZE + 1), message)

    with pytest.raises(DamagedError, match="clear facts"):
        parse(make_envelope(at_cap, []), SEAL_ID)
    with pytest.raises(DamagedError, match="payload"):
        parse(make_envelope(above, []), SEAL_ID)
