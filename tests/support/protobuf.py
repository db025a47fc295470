"""Protobuf messages by hand, for model formats whose own packages are far too big."""

from __future__ import annotations

import struct

Value = int | float | str | bytes | list["Fields"]
Fields = list[tuple[int, Value]]


def message(*fields: tuple[int, Value]) -> bytes:
    """Encode a message: numbers are varints, floats 32 bits, the rest has a length."""
    return b"".join(_field(number, value) for number, value in fields)


def _field(number: int, value: object) -> bytes:
    if isinstance(value, int):
        return _varint(number << 3) + _varint(value % 2**64)
    if isinstance(value, float):
        return _varint(number << 3 | 5) + struct.pack("<f", value)
    data = value.encode() if isinstance(value, str) else value
    assert isinstance(data, bytes)
    return _varint(number << 3 | 2) + _varint(len(data)) + data


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*encoded, value])
