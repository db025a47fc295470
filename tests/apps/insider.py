"""Somebody for whom a model was sealed, and who is not its publisher.

He has the model key, and so can encrypt whatever he likes in the right way. What he
cannot do is sign. Age and Cobblestone are libraries' here, nothing is ovfuse's.
"""

from dataclasses import dataclass
from pathlib import Path

import pyrage
from cryptography.cobblestone import Cobblestone256Encryptor

from tests.support.encryptor import (
    block_list,
    decrypt,
    encrypt_message,
    object_context,
)
from tests.support.mounting import Home

__all__ = ["Insider", "model_key_of"]

SALT_SIZE = 24


def model_key_of(home: Home, sealed: Path) -> bytes:
    """Unwrap the model key of a sealed model with the account's identity."""
    lines = home.identity.read_text().splitlines()
    (line,) = (line for line in lines if not line.startswith("#"))
    identity = pyrage.x25519.Identity.from_str(line)
    (key_file,) = sealed.glob("seals/*/keys/*.age")
    key: bytes = pyrage.decrypt(key_file.read_bytes(), [identity])
    return key


@dataclass(frozen=True, kw_only=True)
class _File:
    object_id: str
    list_offset: int


class Insider:
    """Replaces files of a sealed model by others of the same size."""

    def __init__(self, home: Home, sealed: Path) -> None:
        self._key = model_key_of(home, sealed)
        manifest = decrypt(sealed, self._key).manifest
        self._seal_id: str = manifest["facts"]["seal_id"]
        self._directory: Path = sealed / "seals" / self._seal_id
        self._files: dict[str, _File] = {}
        list_offset = 0
        for entry in manifest["files"]:
            object_id = entry["object_id"]
            self._files[entry["path"]] = _File(
                object_id=object_id, list_offset=list_offset
            )
            list_offset += len(block_list(self._object(object_id).read_bytes()))

    def encrypt(self, path: str, content: bytes) -> bytes:
        """Return an object as the publisher could have made it."""
        context = object_context(self._seal_id, self._files[path].object_id)
        encryptor = Cobblestone256Encryptor(self._key, context)
        return encryptor.update(content) + encryptor.finalize()

    def encrypt_alike(self, path: str, content: bytes) -> bytes:
        """Return an object that differs where the content does: by the same salt."""
        object_id = self._files[path].object_id
        salt = self._object(object_id).read_bytes()[:SALT_SIZE]
        context = object_context(self._seal_id, object_id)
        return encrypt_message(self._key, salt, context, content)

    def object_of(self, path: str) -> Path:
        """Return where the object of a file of the model is."""
        return self._object(self._files[path].object_id)

    def replace_object(self, path: str, message: bytes) -> None:
        """Put another file in the object's place."""
        target = self.object_of(path)
        assert len(message) == target.stat().st_size
        fresh = target.with_suffix(".new")
        fresh.write_bytes(message)
        fresh.replace(target)

    def overwrite_object(self, path: str, message: bytes) -> None:
        """Change the object itself, which somebody may have opened."""
        with self.object_of(path).open("r+b") as file:
            file.write(message)

    def replace_list(self, path: str, message: bytes) -> None:
        """Make the file's block list that of another object."""
        with (self._directory / "blocks").open("r+b") as file:
            file.seek(self._files[path].list_offset)
            file.write(block_list(message))

    def _object(self, object_id: str) -> Path:
        return self._directory / "objects" / object_id
