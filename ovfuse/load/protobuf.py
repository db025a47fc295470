"""Protobuf's wire format, as far as rewriting a message needs it. No schema, no I/O.

Fields are views of the bytes that they were read from.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

__all__ = ["LENGTH_DELIMITED", "Field", "WireError", "fields", "tag", "varint"]

_VARINT, _FIXED64, LENGTH_DELIMITED, _FIXED32 = 0, 1, 2, 5
_FIXED_SIZES: Final = {_FIXED64: 8, _FIXED32: 4}
_VARINT_MAX_BITS: Final = 64


class WireError(ValueError):
    """Not a protobuf message."""


@dataclass(frozen=True, slots=True)
class Field:
    """One field of a message.

    Attributes:
        number: of the field.
        wire_type: 2 for messages, strings and bytes.
        value: content of a length-delimited one; else empty.
        integer: value of a varint; else 0.
        raw: the whole field, tag included.
    """

    number: int
    wire_type: int
    value: memoryview
    integer: int
    raw: memoryview


def fields(message: memoryview) -> Iterator[Field]:
    """Yield the fields of a message in order.

    Raises:
        WireError: it is malformed, or has groups, which nobody uses any more.
    """
    position = 0
    nothing = message[:0]
    while position < len(message):
        start = position
        key, position = _read_varint(message, position)
        number, wire_type = key >> 3, key & 7
        value, integer = nothing, 0
        if wire_type == _VARINT:
            integer, position = _read_varint(message, position)
        elif wire_type == LENGTH_DELIMITED:
            size, position = _read_varint(message, position)
            value = message[position : position + size]
            position += size
        elif wire_type in _FIXED_SIZES:
            position += _FIXED_SIZES[wire_type]
        else:
            raise WireError("a field of an unknown type")
        if number == 0 or position > len(message):
            raise WireError("a field that is malformed or truncated")
        yield Field(number, wire_type, value, integer, message[start:position])


def varint(value: int) -> bytes:
    """Encode a number that is not negative."""
    encoded = bytearray()
    while value > 0x7F:  # noqa: PLR2004 - seven bits a byte
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def tag(number: int, size: int) -> bytes:
    """Return what stands before the content of a length-delimited field."""
    return varint(number << 3 | LENGTH_DELIMITED) + varint(size)


def _read_varint(message: memoryview, position: int) -> tuple[int, int]:
    """Return a number and where it ends."""
    value = 0
    for shift in range(0, _VARINT_MAX_BITS + 6, 7):
        if position >= len(message):
            break
        byte = message[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:  # noqa: PLR2004 - the last byte of it
            return value, position
    raise WireError("a number that is malformed or truncated")
