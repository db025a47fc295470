"""From what a user writes to a source: `KIND:REST`, or the path of a file."""

import os
from collections.abc import Callable, Mapping
from typing import Final

from ovfuse.errors import UsageError
from ovfuse.keys.sources.command import CommandSource
from ovfuse.keys.sources.contract import Source
from ovfuse.keys.sources.credential import CredentialSource
from ovfuse.keys.sources.descriptor import DescriptorSource
from ovfuse.keys.sources.file import FileSource
from ovfuse.keys.sources.keyring import KeyringSource
from ovfuse.keys.sources.passphrase import PassphraseSource, TerminalSource
from ovfuse.keys.sources.tpm2 import Tpm2Source
from ovfuse.quote import quoted

__all__ = ["parse_source"]


def parse_source(value: str | os.PathLike[str]) -> Source:
    """Return the source that somebody named.

    Args:
        value: text as behind `-i`; a path object always names a file.

    Raises:
        UsageError: a source of that kind is named otherwise.
    """
    if not isinstance(value, str):
        return FileSource.parse(os.fspath(value))
    kind, colon, rest = value.partition(":")
    if not colon or kind not in _KINDS:
        return FileSource.parse(value)
    return _KINDS[kind](rest)


def _parse_passphrase(text: str) -> Source:
    if not text:
        return TerminalSource()
    source = parse_source(text)
    if isinstance(source, PassphraseSource | TerminalSource):
        raise UsageError(f"{quoted(f'passphrase:{text}')} names no source")
    return PassphraseSource(source)


_KINDS: Final[Mapping[str, Callable[[str], Source]]] = {
    "command": CommandSource.parse,
    "credential": CredentialSource.parse,
    "fd": DescriptorSource.parse,
    "file": FileSource.parse,
    "keyring": KeyringSource.parse,
    "passphrase": _parse_passphrase,
    "tpm2": Tpm2Source.parse,
}
