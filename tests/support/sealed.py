"""Factories: people with keys, model directories, sealed models, ways to read them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from ovfuse.errors import OvfuseError
from ovfuse.keys import IdentityOpener, Place, Unlocker
from ovfuse.keys.history import History
from ovfuse.keys.identities import FoundIdentities
from ovfuse.sealed.manifest import FileEntry, Manifest, Terms
from ovfuse.sealed.opening import SealedModel
from ovfuse.sealed.publish import SealingRequest, seal
from ovfuse.sealed.reader import ScratchPool
from ovfuse.sealed.sealing import Sealing
from ovfuse.sealed.signing import PublicKey, SigningKey
from ovfuse.sealed.wrapping import Identity, Recipient, wrap
from ovfuse.secret import Secret
from tests.support import encryptor

SMALL_FILES = {
    "model.xml": b'<?xml version="1.0"?>\n<net name="small"/>\n',
    "model.bin": bytes(range(256)) * 3,
    "sub/labels.txt": b"cat\ndog\n",
}


def make_identity() -> Identity:
    return Identity.from_age(Identity.generate())


def recipient_of(identity: Identity) -> Recipient:
    assert identity.recipient is not None
    return identity.recipient


def wrapped(model_key: bytes, identity: Identity) -> bytes:
    """Return an age file with a model key for an identity."""
    return wrap(Secret(model_key), recipient_of(identity))


def pattern(size: int) -> bytes:
    """Return bytes without a period that a block or chunk could hide."""
    return hashlib.shake_128(b"pattern").digest(size)


@dataclass(frozen=True)
class Publisher:
    """Somebody who seals for himself: the owner of an identity and a signing key."""

    identity: Identity
    signing_key: SigningKey

    @classmethod
    def make(cls) -> Publisher:
        return cls(make_identity(), SigningKey.generate("publisher@example"))

    @property
    def recipient(self) -> Recipient:
        return recipient_of(self.identity)

    @property
    def unlocker(self) -> Unlocker:
        return make_unlocker([self.identity], [self.signing_key.public])

    def request(self, source: Path, cipherdir: Path) -> SealingRequest:
        return SealingRequest(
            model_directory=source,
            cipherdir=cipherdir,
            recipients=[self.recipient],
            signing_key=self.signing_key,
            trusted={self.signing_key.public},
            identities=[self.identity],
            name=None,
            new_model=False,
            terms=Terms(),
        )

    def seal(self, source: Path, cipherdir: Path, name: str | None = None) -> Manifest:
        return seal_quietly(replace(self.request(source, cipherdir), name=name))


def seal_quietly(request: SealingRequest) -> Manifest:
    return seal(request, on_total=lambda _: None, on_bytes=lambda _: None)


def make_unlocker(
    identities: Iterable[Identity],
    trusted: Iterable[PublicKey],
    *,
    allow_untrusted: bool = False,
) -> Unlocker:
    return Unlocker(
        opener=IdentityOpener(FoundIdentities(list(identities), ("'identity.txt'",))),
        trusted=frozenset(trusted),
        history=History(),
        allow_untrusted=allow_untrusted,
    )


def write_files(directory: Path, files: Mapping[str, bytes] = SMALL_FILES) -> Path:
    """Write a model directory; return it."""
    directory.mkdir(parents=True, exist_ok=True)
    for path, data in files.items():
        (directory / path).parent.mkdir(parents=True, exist_ok=True)
        (directory / path).write_bytes(data)
    return directory


def write_sealed(
    made: encryptor.SealedFiles, directory: Path, identity: Identity
) -> Path:
    """Write what the encryptor made, openable by an identity; return the directory."""
    made.add_key_file(recipient_of(identity).canonical)
    return made.write(directory)


def signers_of(made: encryptor.SealedFiles) -> list[PublicKey]:
    return [PublicKey(key.public_key().public_bytes_raw()) for key in made.signing_keys]


@contextmanager
def opened(directory: Path, identity: Identity) -> Iterator[Sealing]:
    """Open the current sealing, whoever signed it."""
    with SealedModel.open(directory) as model, model.current() as locked:
        sealing = locked.unlock([identity], ScratchPool())
    try:
        yield sealing
    finally:
        sealing.close()


def entry_of(sealing: Sealing, path: str) -> FileEntry:
    (entry,) = (e for e in sealing.manifest.files if e.path == path)
    return entry


def stream(sealing: Sealing, entry: FileEntry) -> bytes:
    """Read a file from start to end."""
    return b"".join(map(bytes, sealing.stream_file(entry)))


def read_at(sealing: Sealing, entry: FileEntry, offset: int, size: int) -> bytes:
    """Read a part of a file at random access."""
    reader = sealing.open_file(entry)
    try:
        buffer = bytearray(size)
        return bytes(buffer[: reader.read_into(offset, memoryview(buffer))])
    finally:
        reader.close()


def read_everything(directory: Path, unlocker: Unlocker) -> dict[str, bytes]:
    """Read all files as a mount would, and as `verify` would; both must agree."""
    with SealedModel.open(directory) as model:
        place = Place(directory, "")
        sealing = unlocker.unlock(model, ScratchPool(), place=place).sealing
    try:
        found = {}
        for entry in sealing.manifest.files:
            found[entry.path] = stream(sealing, entry)
            assert read_at(sealing, entry, 0, entry.size + 1) == found[entry.path]
        return found
    finally:
        sealing.close()


def outcome(directory: Path, unlocker: Unlocker) -> dict[str, bytes] | OvfuseError:
    """Return all content, or the error of the project that reading ends with."""
    try:
        return read_everything(directory, unlocker)
    except OvfuseError as error:
        return error
