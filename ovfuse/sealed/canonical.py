"""Canonical JSON: one sequence of bytes for one content.

Used for clear facts, manifest and envelope. Decoding is strict by construction:
what does not encode to the very same bytes is refused, and with it duplicate
members, white space, other escapes, other forms of numbers and of base64 (which is
what a field of bytes is in JSON).
"""

from typing import TypeVar

import msgspec

from ovfuse.errors import DamagedError

__all__ = ["Record", "decode", "encode"]


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
