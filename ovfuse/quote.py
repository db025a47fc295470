"""Outside strings made safe for a terminal, a log line or a status text.

Names of files and models and signers' comments come from strangers. Whoever
puts one into a message passes it through `quoted`; the last step before a
terminal or a log is `printable`, so that nothing slips through.
"""

import os
import re

__all__ = ["printable", "quoted"]

_MAX_LENGTH = 300
_IDENTITY = re.compile(r"(AGE-SECRET-KEY-)[0-9A-Z]+", re.IGNORECASE)
_SURROGATE_BYTES = range(0xDC80, 0xDD00)  # what surrogateescape makes of bytes


def quoted(value: str | bytes | os.PathLike[str]) -> str:
    r"""Return `value` in single quotes, unprintable characters escaped.

    Bytes are read as UTF-8; what is not UTF-8 appears as `\xNN`. Text of more
    than 300 characters is cut in the middle.
    """
    raw = os.fspath(value)
    text = raw.decode("utf-8", "surrogateescape") if isinstance(raw, bytes) else raw
    escaped = printable(text.replace("\\", "\\\\").replace("'", "\\'"))
    if len(escaped) > _MAX_LENGTH:
        half = _MAX_LENGTH // 2
        escaped = f"{escaped[:half]}…{escaped[-half:]}"
    return f"'{escaped}'"


def printable(text: str) -> str:
    """Return `text` with every character that is not printable escaped.

    Control characters, line breaks, bidirectional overrides and lone
    surrogates all count as not printable (str.isprintable). An age identity, pasted
    in the place of something else, is not repeated.
    """
    text = _IDENTITY.sub(r"\1...", text)
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else _escape(c) for c in text)


def _escape(character: str) -> str:
    code = ord(character)
    if code in _SURROGATE_BYTES:
        return f"\\x{code - 0xDC00:02x}"
    return character.encode("unicode_escape", "surrogatepass").decode("ascii")
