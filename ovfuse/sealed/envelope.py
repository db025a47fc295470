"""DSSE: the envelope around a payload, and what may be said before any key.

Verified over the very bytes that are then parsed. Whether a signer is trusted
is decided by who calls; that every signature is whole is decided here.
"""

import hashlib
from dataclasses import dataclass
from typing import Annotated, Final

from msgspec import Meta

from ovfuse.errors import DamagedError, KeyFileError
from ovfuse.sealed import layout
from ovfuse.sealed.canonical import Record, decode, encode
from ovfuse.sealed.manifest import ClearFacts, parse_clear_facts
from ovfuse.sealed.offsets import PREFIX_SIZE, TAG_SIZE
from ovfuse.sealed.signing import PublicKey, SigningKey

__all__ = ["Envelope", "make_envelope", "make_payload", "parse_envelope"]

_LENGTH_SIZE: Final = 4


class _Signature(Record, frozen=True):
    keyid: bytes
    sig: bytes


class _Dsse(Record, frozen=True):
    payload: bytes
    payloadType: str  # noqa: N815 - the member's name in DSSE
    signatures: Annotated[
        tuple[_Signature, ...], Meta(max_length=layout.SIGNATURES_MAX)
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class Envelope:
    """A verified envelope.

    Attributes:
        facts: the clear facts.
        clear_facts: their exact bytes, which the manifest's context hashes.
        manifest_message: the encrypted manifest.
        payload_sha256: hex; what `previous`, rollback state and inodes are made of.
        signers: the keys whose signatures verified; empty if unsigned.
    """

    facts: ClearFacts
    clear_facts: bytes
    manifest_message: bytes
    payload_sha256: str
    signers: tuple[PublicKey, ...]


def pae(payload: bytes) -> bytes:
    """Return DSSE's pre-authentication encoding, the bytes that are signed."""
    kind = layout.PAYLOAD_TYPE.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def make_payload(clear_facts: bytes, manifest_message: bytes) -> bytes:
    """Return the payload of both parts."""
    return (
        len(clear_facts).to_bytes(_LENGTH_SIZE, "big") + clear_facts + manifest_message
    )


def make_envelope(payload: bytes, signing_keys: list[SigningKey]) -> bytes:
    """Return the envelope's bytes with one signature per key."""
    message = pae(payload)
    signatures = tuple(
        _Signature(keyid=key.public.blob, sig=key.sign(message)) for key in signing_keys
    )
    return encode(
        _Dsse(
            payload=payload,
            payloadType=layout.PAYLOAD_TYPE,
            signatures=signatures,
        )
    )


def parse_envelope(data: bytes, seal_id: str) -> Envelope:
    """Return the envelope of the sealing `seal_id`, its signatures verified.

    Raises:
        DamagedError: malformed, or a signature that fails under its own key.
    """
    # Before objects are made of them: nothing else in an envelope has a brace.
    if data.count(b"{") > 1 + layout.SIGNATURES_MAX:
        raise DamagedError("the envelope has too many signatures")
    dsse = decode(data, _Dsse, "envelope")
    if dsse.payloadType != layout.PAYLOAD_TYPE:
        raise DamagedError("the envelope's payload is of an unknown type")
    del data  # an envelope may be large
    payload, message = dsse.payload, pae(dsse.payload)
    signers = tuple(_verified(signature, message) for signature in dsse.signatures)
    clear_facts, manifest_message = _split(payload)
    return Envelope(
        facts=parse_clear_facts(clear_facts, seal_id),
        clear_facts=clear_facts,
        manifest_message=manifest_message,
        payload_sha256=hashlib.sha256(payload).hexdigest(),
        signers=signers,
    )


def _verified(signature: _Signature, message: bytes) -> PublicKey:
    try:
        signer = PublicKey.from_blob(signature.keyid)
    except KeyFileError:
        raise DamagedError("the envelope has a signature of an unknown kind") from None
    if not signer.verifies(signature.sig, message):
        raise DamagedError("a signature of the envelope does not verify")
    return signer


def _split(payload: bytes) -> tuple[bytes, bytes]:
    size = int.from_bytes(payload[:_LENGTH_SIZE], "big")
    end = _LENGTH_SIZE + size
    smallest_message = PREFIX_SIZE + TAG_SIZE
    if size > layout.CLEAR_FACTS_MAX_SIZE or len(payload) < end + smallest_message:
        raise DamagedError("the payload is malformed")
    return payload[_LENGTH_SIZE:end], payload[end:]
