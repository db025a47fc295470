"""Two sealings of one model and one of another, by one publisher, in memory.

What a reader may show of them is decided here: whole files of one sealing, or errors.
"""

import base64
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from ovfuse.errors import OvfuseError
from ovfuse.keys import Place, Unlocker
from ovfuse.keys.history import History
from ovfuse.sealed.opening import SealedModel
from ovfuse.sealed.reader import ScratchPool
from ovfuse.sealed.signing import PublicKey
from ovfuse.sealed.wrapping import Identity
from tests.support import encryptor
from tests.support.encryptor import Edits, Json, Plain, SealedFiles, encrypt
from tests.support.sealed import make_unlocker, pattern, stream

NAME = "model"
OLD_FILES = {"a": b"old content", "d/b": pattern(70_000)}
NEW_FILES = {"a": b"new content", "d/b": pattern(70_000)[::-1]}
OTHER_FILES = {"a": b"of another", "d/b": pattern(140_000)[70_000:]}

Found = dict[str, bytes | OvfuseError]


def publishers_key() -> Ed25519PrivateKey:
    return encryptor.signing_key(encryptor.Randomness("hostile"), 0)


def publish(plain: Plain, seed: str, edits: Edits = encryptor.NO_EDITS) -> SealedFiles:
    """Seal, signed by the one publisher."""

    def sign_again(envelope: Json) -> None:
        payload = base64.b64decode(envelope["payload"])
        envelope.update(encryptor.sign(payload, [publishers_key()]))
        edits.envelope(envelope)

    made = encrypt(plain, seed, replace(edits, envelope=sign_again))
    return replace(made, signing_keys=[publishers_key()])


@dataclass(frozen=True)
class Published:
    """The sealings; `old` and `new` are of one model, `other` is of the same name."""

    old: SealedFiles
    new: SealedFiles
    other: SealedFiles

    @property
    def signer(self) -> PublicKey:
        return PublicKey(publishers_key().public_key().public_bytes_raw(), "publisher")

    @property
    def both(self) -> dict[str, bytes]:
        """All files of the model with the older sealing kept."""
        return {**self.old.files, **self.new.files}

    def for_recipient(self, recipient: str) -> "Published":
        for made in (self.old, self.new, self.other):
            made.add_key_file(recipient)
        return self


def make_published() -> Published:
    old = publish(Plain(files=OLD_FILES, name=NAME), "hostile, old")

    def of_the_same_model(facts: Json) -> None:
        facts["model_id"] = old.model_id

    new = publish(
        Plain(files=NEW_FILES, name=NAME, version=2, sealed_at=encryptor.SEALED_AT + 1),
        "hostile, new",
        Edits(clear_facts=of_the_same_model),
    )
    other = publish(Plain(files=OTHER_FILES, name=NAME), "hostile, other")
    return Published(old, new, other)


PARTS: Mapping[str, Callable[[SealedFiles], str]] = {
    "envelope": lambda made: made.envelope_path,
    "blocks": lambda made: made.path_of("blocks"),
    "key file": lambda made: next(p for p in made.files if p.endswith(".age")),
    "object a": lambda made: made.object_path("a"),
    "object b": lambda made: made.object_path("d/b"),
}
"""The files of a sealing, by what they are."""
PLACES: Mapping[str, Callable[[SealedFiles], str]] = {
    **PARTS,
    "pointer": lambda made: "model.ovfuse",
    "seals": lambda made: "seals",
    "sealing": lambda made: f"seals/{made.seal_id}",
    "keys": lambda made: made.path_of("keys"),
    "objects": lambda made: made.path_of("objects"),
}


def write(files: Mapping[str, bytes], directory: Path) -> Path:
    """Write files below a directory, which is made."""
    for path, data in files.items():
        (directory / path).parent.mkdir(parents=True, exist_ok=True)
        (directory / path).write_bytes(data)
    return directory


def permissive(identity: Identity, published: Published) -> Unlocker:
    """An unlocker that accepts every whole sealing of the publisher."""
    unlocker = make_unlocker([identity], [published.signer])
    return replace(unlocker, history=History(allow_rollback=True))


def read_each(directory: Path, unlocker: Unlocker) -> Found | OvfuseError:
    """Read every file by itself: what it holds, or the error that it ends with."""
    try:
        with SealedModel.open(directory) as model:
            place = Place(directory, "")
            sealing = unlocker.unlock(model, ScratchPool(), place=place).sealing
    except OvfuseError as error:
        return error
    found: Found = {}
    for entry in sealing.manifest.files:
        try:
            found[entry.path] = stream(sealing, entry)
        except OvfuseError as error:
            found[entry.path] = error
    sealing.close()
    return found


def is_of_one_sealing(
    found: Found | OvfuseError, *allowed: Mapping[str, bytes]
) -> bool:
    """Say whether only whole files of one of the allowed sealings are shown.

    An error is always allowed; a file that the sealing has must not be absent.
    """
    if isinstance(found, OvfuseError):
        return True
    return any(
        found.keys() == files.keys()
        and all(
            isinstance(data, OvfuseError) or data == files[path]
            for path, data in found.items()
        )
        for files in allowed
    )


def without_error(found: Found | OvfuseError) -> bool:
    """Say whether everything was shown."""
    return not isinstance(found, OvfuseError) and not any(
        isinstance(data, OvfuseError) for data in found.values()
    )


def bits_of(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield every variant with one bit flipped, and the number of the bit."""
    for number in range(8 * len(data)):
        changed = bytearray(data)
        changed[number // 8] ^= 1 << number % 8
        yield number, bytes(changed)


def signatures_of(made: SealedFiles) -> Json:
    """Return the envelope as JSON."""
    envelope: Json = json.loads(made.files[made.envelope_path])
    return envelope
