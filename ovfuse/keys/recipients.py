"""Recipients: from the command line, from files, or the own identity's.

They never come from a cipherdir.
"""

from collections.abc import Sequence
from pathlib import Path

from ovfuse.errors import KeyFileError
from ovfuse.keys.files import read_public
from ovfuse.quote import quoted
from ovfuse.sealed.wrapping import Identity, Recipient

__all__ = ["own_recipients", "parse_recipients"]


def parse_recipients(texts: Sequence[str], files: Sequence[Path]) -> list[Recipient]:
    """Return the recipients given as texts (`-r`) and in files (`-R`), in order.

    Raises:
        KeyFileError: one of them cannot be read; names it.
    """
    found = [_parse(text, quoted(text)) for text in texts]
    for path in files:
        try:
            lines = read_public(path, check_owner=False).splitlines()
        except OSError as error:
            raise KeyFileError(f"{quoted(path)}: {error.strerror}") from None
        named = [
            _parse(line, f"{quoted(path)} line {number}")
            for number, line in enumerate(lines, start=1)
            if line.strip() and not line.lstrip().startswith("#")
        ]
        if not named:  # must not turn into the default
            raise KeyFileError(f"{quoted(path)} names no recipient")
        found += named
    return list(dict.fromkeys(found))


def own_recipients(identities: Sequence[Identity]) -> list[Recipient]:
    """Return the recipients that belong to identities.

    Raises:
        KeyFileError: none of them says its recipient, as SSH keys do not.
    """
    found = [i.recipient for i in identities if i.recipient is not None]
    if not found:
        raise KeyFileError("no identity of yours names its recipient; give one with -r")
    return list(dict.fromkeys(found))


def _parse(text: str, where: str) -> Recipient:
    try:
        return Recipient.parse(text)
    except KeyFileError as error:
        raise KeyFileError(f"{where}: {error.message}", hint=error.hint) from None
