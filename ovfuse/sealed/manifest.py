"""The signed records: clear facts, and the manifest with everything else.

Parsed here and only here; whoever holds a `Manifest` holds one that keeps all
rules of docs/format.md. Records are immutable.
"""

import re
from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated, Literal

from msgspec import Meta

from ovfuse.errors import DamagedError, NewerFormatError
from ovfuse.sealed import layout
from ovfuse.sealed.canonical import Record, decode
from ovfuse.sealed.offsets import block_list_size
from ovfuse.sealed.paths import check_tree, is_model_name

__all__ = [
    "ClearFacts",
    "FileEntry",
    "Manifest",
    "Previous",
    "Terms",
    "parse_clear_facts",
    "parse_manifest",
]

Id = Annotated[str, Meta(pattern=r"\A[0-9a-f]{32}\Z")]
Digest = Annotated[str, Meta(pattern=r"\A[0-9a-f]{64}\Z")]
Size = Annotated[int, Meta(ge=0, le=layout.PADDED_MAX_SIZE)]
Version = Annotated[int, Meta(ge=1, le=layout.INTEGER_MAX)]
SealingTime = Annotated[int, Meta(ge=0, le=layout.TIME_MAX)]
Seconds = Annotated[int, Meta(ge=0, le=layout.INTEGER_MAX)]

_EXTENSION_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_KNOWN_EXTENSIONS: frozenset[str] = frozenset()


class ClearFacts(Record, frozen=True):
    """What an envelope says to those without a key. Times in seconds, UTC."""

    format: Literal[1]
    model_id: Id
    seal_id: Id
    sealed_at: SealingTime
    version: Version


class FileEntry(Record, frozen=True):
    """One file of the model. Sizes in bytes."""

    block_list_hash: Digest
    object_id: Id
    padded_size: Size
    path: str
    plaintext_sha256: Digest
    size: Size


class Previous(Record, frozen=True):
    """The sealing before this one."""

    payload_sha256: Digest
    seal_id: Id


class Terms(Record, frozen=True):
    """When and where the publisher allows use; see terms.py."""

    machines: Annotated[tuple[Digest, ...], Meta(max_length=layout.MACHINES_MAX)] = ()
    not_after: Seconds | None = None
    not_before: Seconds | None = None
    text: str = ""


class Manifest(Record, frozen=True):
    """Everything about one sealing."""

    critical: tuple[str, ...]
    directories: Annotated[tuple[str, ...], Meta(max_length=layout.DIRECTORIES_MAX)]
    extensions: Annotated[dict[str, str], Meta(max_length=layout.EXTENSIONS_MAX)]
    facts: ClearFacts
    files: Annotated[tuple[FileEntry, ...], Meta(max_length=layout.FILES_MAX)]
    name: str
    previous: Previous | None
    terms: Terms

    @property
    def blocks_size(self) -> int:
        """The exact size of the file `blocks`."""
        return sum(block_list_size(entry.padded_size) for entry in self.files)


def parse_clear_facts(data: bytes, seal_id: str) -> ClearFacts:
    """Return the clear facts of the sealing that the pointer calls `seal_id`.

    Raises:
        DamagedError: malformed, not canonical, or of another sealing.
    """
    facts = decode(data, ClearFacts, "clear facts")
    if facts.seal_id != seal_id:
        raise DamagedError("the envelope is of another sealing")
    return facts


def parse_manifest(data: bytes, facts: ClearFacts) -> Manifest:
    """Return the manifest in decrypted `data`, every rule checked.

    Raises:
        DamagedError: a rule is broken.
        NewerFormatError: a critical extension is unknown.
    """
    manifest = decode(data, Manifest, "manifest")
    if manifest.facts != facts:
        raise DamagedError("the manifest is of another sealing")
    if not is_model_name(manifest.name):
        raise DamagedError("the manifest has a name that is not allowed")
    check_tree(manifest.directories, [entry.path for entry in manifest.files])
    _check_sizes(manifest.files)
    _check_terms(manifest.terms)
    _check_extensions(manifest)
    return manifest


def _check_sizes(files: Sequence[FileEntry]) -> None:
    if any(entry.size > entry.padded_size for entry in files):
        raise DamagedError("the manifest has a file larger than its object")
    if sum(entry.padded_size for entry in files) > layout.MODEL_MAX_SIZE:
        raise DamagedError("the manifest's files are too large in all")
    if len({entry.object_id for entry in files}) != len(files):
        raise DamagedError("the manifest uses an object twice")


def _check_terms(terms: Terms) -> None:
    if not _is_strictly_ascending(terms.machines):
        raise DamagedError("the terms' machines are not sorted")
    if len(terms.text.encode()) > layout.TEXT_MAX_SIZE:
        raise DamagedError("the terms' text is too long")
    both = terms.not_before is not None and terms.not_after is not None
    if both and terms.not_before >= terms.not_after:  # type: ignore[operator] # both are set
        raise DamagedError("the terms never allow use")


def _check_extensions(manifest: Manifest) -> None:
    for name, value in manifest.extensions.items():
        if _EXTENSION_NAME.fullmatch(name) is None:
            raise DamagedError("the manifest has an extension of a wrong name")
        if len(value.encode()) > layout.TEXT_MAX_SIZE:
            raise DamagedError("the manifest has an extension that is too long")
    critical = manifest.critical
    if not _is_strictly_ascending(critical) or not manifest.extensions.keys() >= {
        *critical
    }:
        raise DamagedError("the manifest's critical extensions are malformed")
    unknown = [name for name in critical if name not in _KNOWN_EXTENSIONS]
    if unknown:
        raise NewerFormatError(
            f"made by a newer ovfuse (it needs the extension {unknown[0]})"
        )


def _is_strictly_ascending(items: Sequence[str]) -> bool:
    return all(a < b for a, b in pairwise(items))
