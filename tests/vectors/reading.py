"""One way to ask different readers what they release of a sealed model."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Protocol

import pytest

from ovfuse.errors import (
    DamagedError,
    NewerFormatError,
    NoUsableKeyError,
    OvfuseError,
    RollbackError,
    TermsError,
    UntrustedError,
)
from ovfuse.keys import IdentityOpener, Place, Unlocker
from ovfuse.keys.history import History
from ovfuse.keys.identities import FoundIdentities, parse_identities
from ovfuse.keys.trusted import parse_public_keys
from ovfuse.sealed.envelope import Envelope
from ovfuse.sealed.manifest import ClearFacts
from ovfuse.sealed.opening import SealedModel
from ovfuse.sealed.reader import ScratchPool
from ovfuse.sealed.sealing import Sealing
from ovfuse.sealed.terms import machine_digest
from tests import second_decryptor
from tests.support.encryptor import Json
from tests.support.sealed import entry_of, read_at

BLOCK = 65536
CLASSES: dict[type[OvfuseError], str] = {
    DamagedError: "damaged",
    NewerFormatError: "newer",
    NoUsableKeyError: "no usable key",
    RollbackError: "rollback",
    TermsError: "terms",
    UntrustedError: "untrusted",
}


class RefusedError(Exception):
    """The class is its argument."""

    @property
    def kind(self) -> str:
        return str(self.args[0])


class Reader(Protocol):
    """A model that was opened."""

    @property
    def sizes(self) -> dict[str, int]:
        """The plaintext sizes of all files."""

    def block(self, path: str, number: int) -> bytes:
        """Read one block's plaintext at random access."""

    def stream(self, path: str) -> Iterator[bytes]:
        """Read a whole file, and check all of it."""


Opener = Callable[[Path, Path, Path, Json], AbstractContextManager[Reader]]
"""Takes directory, identity file, trusted key file, and what the reader is told."""


def released_by(
    opener: Opener, tree: Path, identity: Path, trusted: Path, told: Json
) -> Json:
    """Return what expect.json would say of this reader, without the comment."""
    found: Json = {"expect": "success", "released": {}}
    try:
        with opener(tree, identity, trusted, told) as reader:
            for path in reader.sizes:
                _read(reader, path, found)
    except RefusedError as error:
        found["expect"] = error.kind
    return found


def _read(reader: Reader, path: str, found: Json) -> None:
    size = reader.sizes[path]
    blocks: dict[str, bytes] = {}
    numbers = range(max(1, -(-size // BLOCK)))
    for number in numbers:
        try:
            blocks[str(number)] = reader.block(path, number)
        except RefusedError as error:
            found["expect"] = error.kind
    whole = len(blocks) == len(numbers)
    if whole:
        found["released"][path] = _sha256(b"".join(blocks.values()))
    elif blocks:
        parts = {number: _sha256(data) for number, data in blocks.items()}
        found.setdefault("released_blocks", {})[path] = parts
    _stream(reader, path, blocks, found, whole=whole)


def _stream(
    reader: Reader, path: str, blocks: dict[str, bytes], found: Json, *, whole: bool
) -> None:
    """Read the file from start to end; what comes of it must be in the blocks."""
    streamed = b""
    try:
        for piece in reader.stream(path):
            streamed += piece
    except RefusedError as error:
        found["expect"] = error.kind
        if whole:
            found.setdefault("damaged_when_whole", []).append(path)
        assert b"".join(blocks.values()).startswith(streamed)
    else:
        assert whole
        assert streamed == b"".join(blocks.values())


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


# ovfuse


class Ovfuse:
    """A sealing that ovfuse unlocked."""

    def __init__(self, sealing: Sealing) -> None:
        self._sealing = sealing
        self.sizes = {entry.path: entry.size for entry in sealing.manifest.files}

    def block(self, path: str, number: int) -> bytes:
        entry = entry_of(self._sealing, path)
        with _refusing():
            data = read_at(self._sealing, entry, BLOCK * number, BLOCK)
            for offset in {0, len(data) // 2, max(0, len(data) - 1)}:
                start = BLOCK * number + offset
                one = read_at(self._sealing, entry, start, 1)
                assert one == data[offset : offset + 1]
        return data

    def stream(self, path: str) -> Iterator[bytes]:
        with _refusing():
            for piece in self._sealing.stream_file(entry_of(self._sealing, path)):
                yield bytes(piece)


@contextmanager
def _refusing() -> Iterator[None]:
    try:
        yield
    except OvfuseError as error:
        raise RefusedError(CLASSES[type(error)]) from error


@contextmanager
def ovfuse(tree: Path, identity: Path, trusted: Path, told: Json) -> Iterator[Reader]:
    """Open a model as a mount does."""
    with pytest.MonkeyPatch.context() as patch, _refusing():
        _tell(patch, told)
        place = Place(tree, told.get("place", ""))
        history = History()
        if "seen" in told:
            history.record(place, _seen(**told["seen"]))
        unlocker = Unlocker(
            opener=IdentityOpener(
                FoundIdentities(parse_identities(identity.read_bytes(), identity)),
                _asker(told),
            ),
            trusted=frozenset(parse_public_keys(trusted, check_owner=False)),
            history=history,
        )
        with SealedModel.open(tree) as root, SealedModel.at(root.fd, place.path) as at:
            sealing = unlocker.unlock(
                at, ScratchPool(), place=place, name=told.get("name")
            ).sealing
    try:
        yield Ovfuse(sealing)
    finally:
        sealing.close()


def _tell(patch: pytest.MonkeyPatch, told: Json) -> None:
    """Make this another moment, and another machine."""
    module = "ovfuse.keys.unlocker"
    if "now" in told:
        patch.setattr(f"{module}.time.time", lambda: float(told["now"]))
    if "machine_id" in told:

        class MachineId:
            def read_text(self, encoding: str) -> str:
                return f"{told['machine_id']}\n"

        digest = machine_digest(MachineId())  # type: ignore[arg-type] # reads like a path
        patch.setattr(f"{module}.machine_digest", lambda: digest)


def _seen(model_id: str, payload_sha256: str, version: int) -> Envelope:
    facts = ClearFacts(
        format=1, model_id=model_id, seal_id="0" * 32, sealed_at=0, version=version
    )
    return Envelope(
        facts=facts,
        clear_facts=b"",
        manifest_message=b"",
        payload_sha256=payload_sha256,
        signers=(),
    )


def _asker(told: Json) -> Callable[[str], str] | None:
    if "passphrase" not in told:
        return None

    def ask(_: str) -> str:
        assert told["passphrase"] is not None, "the user was asked"
        return str(told["passphrase"])

    return ask


# The second decryptor


class Second:
    """A model that the second decryptor opened."""

    def __init__(self, model: second_decryptor.Model) -> None:
        self._model = model
        self.sizes = {path: entry["size"] for path, entry in model.files.items()}

    def block(self, path: str, number: int) -> bytes:
        with _second_refusing():
            data = self._model.block(path, number)
        return data[: max(0, self.sizes[path] - BLOCK * number)]

    def stream(self, path: str) -> Iterator[bytes]:
        with _second_refusing():
            yield self._model.whole(path)


@contextmanager
def _second_refusing() -> Iterator[None]:
    try:
        yield
    except second_decryptor.RefusedError as error:
        raise RefusedError(*error.args) from error
    except second_decryptor.DAMAGE as error:
        raise RefusedError("damaged") from error


@contextmanager
def second(tree: Path, identity: Path, trusted: Path, told: Json) -> Iterator[Reader]:
    """Open a model with the second decryptor."""
    with _second_refusing():
        model = second_decryptor.Model(tree, identity, trusted, **told)
    yield Second(model)
