"""The pointer: one line that names format version and current sealing."""

import re
from typing import Final

from ovfuse.errors import DamagedError, NewerFormatError
from ovfuse.sealed import layout

__all__ = ["make_pointer", "parse_pointer"]

_VERSION: Final = re.compile(rb"ovfuse ([1-9][0-9]*)")
_POINTER_REST: Final = re.compile(rb" ([0-9a-f]{32})\n\Z")


def make_pointer(seal_id: str) -> bytes:
    """Return the content of `model.ovfuse`."""
    return f"ovfuse {layout.FORMAT_VERSION} {seal_id}\n".encode()


def parse_pointer(data: bytes) -> str:
    """Return the seal id in the content of `model.ovfuse`.

    Raises:
        NewerFormatError: of another format version.
        DamagedError: not a pointer.
    """
    match = _VERSION.match(data)
    if match is None:
        raise DamagedError("the pointer model.ovfuse is malformed")
    version = int(match[1])
    if version != layout.FORMAT_VERSION:
        raise NewerFormatError(f"made by a newer ovfuse (format {version})")
    rest = _POINTER_REST.match(data, match.end())
    if rest is None:
        raise DamagedError("the pointer model.ovfuse is malformed")
    return rest[1].decode()
