"""Canonical JSON: one sequence of bytes for one content.

Used for clear facts, manifest and envelope. Decoding is strict by construction:
what does not encode to the very same bytes is refused, and with it duplicate
members, white space, other escapes and other forms of numbers.
"""

import base64
import binascii
from typing import TypeVar

import msgspec

from ovfuse.errors import DamagedError

__all__ = ["Record", "decode", "decode_base64", "encode", "encode_base64"]


class Record(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The base of every record of the format: immutable, unknown members refused."""


_RecordT = TypeVar("_RecordT", bound=Record)


def encode(record: Record) -> bytes:
    """Return the canonical bytes: UTF-8, members sorted, no white space."""
    return msgspec.json.encode(record, order="sorted")


def decode(data: bytes, kind: type[_RecordT], what: str) -> _RecordT:
    """Return the record in `data`; `what` names it in an error.

    Raises:
        DamagedError: not JSON, not of this type, or not canonical.
    """
    try:
        record = msgspec.json.decode(data, type=kind)
    except (msgspec.MsgspecError, UnicodeError, RecursionError):
        # The library's text could quote decrypted names: it is not passed on.
        raise DamagedError(f"the {what} is malformed") from None
    if encode(record) != data:
        raise DamagedError(f"the {what} is not in canonical form")
    return record


def encode_base64(data: bytes) -> str:
    """Return padded standard base64."""
    return base64.b64encode(data).decode("ascii")


def decode_base64(text: str, what: str) -> bytes:
    """Return the bytes of canonical, padded standard base64.

    Raises:
        DamagedError: anything else; `what` names it.
    """
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise DamagedError(f"the {what} is not base64") from None
    if encode_base64(data) != text:
        raise DamagedError(f"the {what} is not canonical base64")
    return data
