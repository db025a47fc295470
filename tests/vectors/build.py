"""What the functions that make vectors are written with.

A vector is a function: its name is the vector's, its docstring the comment, its
decorator the class, and what it returns the sealed model and what of it may be read.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from tests.support.encryptor import (
    NO_EDITS,
    Edits,
    Json,
    Plain,
    Randomness,
    SealedFiles,
    base64_text,
    canonical,
    encrypt,
    key_file_name,
    public_blob,
    signing_key,
)
from tests.vectors.age import age_file, x25519

HERE = Path(__file__).parent
IDENTITY = HERE / "inputs" / "identity.txt"
TRUSTED = HERE / "inputs" / "trusted.pub"
SEED = "ovfuse vectors"
BASE = Plain(files={"a": b"abc", "d/e": b""})
BLOCK = 65536


@dataclass(kw_only=True)
class Vector:
    """A sealed model, and what a reader may make of it.

    `released` names the files that may be released whole, `blocks` those of which
    only some blocks may; `options` are further members of expect.json.
    """

    files: dict[str, bytes]
    plain: Plain
    released: Sequence[str] = ()
    blocks: Mapping[str, Sequence[int]] = field(default_factory=dict)
    links: Mapping[str, str] = field(default_factory=dict)
    options: Json = field(default_factory=dict)

    def expect(self, kind: str, comment: str) -> Json:
        """Return the content of expect.json."""
        content = self.plain.files
        everything = list(content) if kind == "success" else self.released
        found: Json = {
            "comment": comment,
            "expect": kind,
            "released": {path: _sha256(content[path]) for path in everything},
            **self.options,
        }
        if self.blocks:
            found["released_blocks"] = {
                path: {
                    str(n): _sha256(content[path][BLOCK * n : BLOCK * (n + 1)])
                    for n in numbers
                }
                for path, numbers in self.blocks.items()
            }
        return found


Maker = Callable[[], Vector]

VECTORS: dict[str, tuple[str, Maker]] = {}


def vector(kind: str) -> Callable[[Maker], Maker]:
    """Add a vector of a class."""

    def add(make: Maker) -> Maker:
        assert make.__name__ not in VECTORS
        VECTORS[make.__name__] = kind, make
        return make

    return add


success = vector("success")
newer = vector("newer")
damaged = vector("damaged")
untrusted = vector("untrusted")
no_usable_key = vector("no usable key")
terms = vector("terms")
rollback = vector("rollback")


def files_of(name: str) -> dict[str, bytes | str]:
    """Return the files of the vector `name`; text is the target of a link."""
    kind, make = VECTORS[name]
    made = make()
    comment = " ".join((make.__doc__ or "").split())
    text = json.dumps(
        made.expect(kind, comment), ensure_ascii=False, indent=1, sort_keys=True
    )
    return {
        "expect.json": f"{text}\n".encode(),
        **{f"model/{path}": data for path, data in made.files.items()},
        **{f"model/{path}": target for path, target in made.links.items()},
    }


# Sealed models


def recipient() -> str:
    """Return the recipient of the identity that opens the vectors."""
    return IDENTITY.read_text().split("public key: ")[1].split()[0]


def sealed(
    plain: Plain = BASE, edits: Edits = NO_EDITS, *, seed: str = SEED
) -> SealedFiles:
    """Return a sealed model with a key file for the identity."""
    plain = replace(plain, terms=deepcopy(plain.terms))  # an edit may change them
    made = encrypt(plain, seed, edits)
    data = age_file(made.model_key, [x25519(recipient())], seed)
    made.files[key_path(made)] = data
    return made


def key_path(made: SealedFiles) -> str:
    """Return the path of the key file for the identity."""
    return made.path_of(f"keys/{key_file_name(made.model_key, recipient())}")


def as_is(made: SealedFiles, **more: Any) -> Vector:
    return Vector(files=made.files, plain=made.plain, **more)


def with_options(**options: object) -> Vector:
    """Return the base model, and what the reader is told."""
    return as_is(sealed(), options=options)


def with_plain(**changes: Any) -> Vector:
    """Return a model that is the base model but for some members of `Plain`."""
    return as_is(sealed(Plain(**({"files": BASE.files} | changes))))


def with_edits(edits: Edits, plain: Plain = BASE) -> Vector:
    """Return a model whose writer makes a mistake, and signs it."""
    return as_is(sealed(plain, edits))


def with_manifest(edit: Callable[[Json], object], plain: Plain = BASE) -> Vector:
    return with_edits(Edits(manifest=edit), plain)


def with_manifest_json(edit: Callable[[bytes], bytes], plain: Plain = BASE) -> Vector:
    return with_edits(Edits(manifest_json=edit), plain)


def with_pointer(edit: Callable[[bytes], bytes]) -> Vector:
    made = sealed()
    made.files["model.ovfuse"] = edit(made.files["model.ovfuse"])
    return as_is(made)


def with_envelope(edit: Callable[[Json], object], plain: Plain = BASE) -> Vector:
    """Return a model whose envelope is changed after it is signed."""
    return with_edits(Edits(envelope=edit), plain)


def with_file(
    name: str, edit: Callable[[bytes], bytes], plain: Plain = BASE, **more: Any
) -> Vector:
    """Return a model with another content of one file of the sealing."""
    made = sealed(plain)
    path = made.path_of(name)
    made.files[path] = edit(made.files[path])
    return as_is(made, **more)


def with_object(
    path: str, edit: Callable[[bytes], bytes], plain: Plain, **more: Any
) -> Vector:
    """Return a model with another object for the file `path` than was signed."""
    made = sealed(plain)
    made.files[made.object_path(path)] = edit(made.files[made.object_path(path)])
    return as_is(made, **more)


def without(name: str, **more: Any) -> Vector:
    """Return a model that lacks a file or directory of the sealing."""
    made = sealed()
    gone = made.path_of(name)
    made.files = {
        path: data
        for path, data in made.files.items()
        if path != gone and not path.startswith(f"{gone}/")
    }
    return as_is(made, **more)


def linked(path: str, made: SealedFiles, **more: Any) -> Vector:
    """Return a model in which a file or directory is moved, and a link left."""
    files = {
        f"moved{name.removeprefix(path)}"
        if name == path or name.startswith(f"{path}/")
        else name: data
        for name, data in made.files.items()
    }
    target = "../" * path.count("/") + "moved"
    return Vector(files=files, plain=made.plain, links={path: target}, **more)


def flipped(position: int) -> Callable[[bytes], bytes]:
    """Return an edit that flips a bit of one byte."""

    def edit(data: bytes) -> bytes:
        changed = bytearray(data)
        changed[position] ^= 1
        return bytes(changed)

    return edit


def swapped(size: int, start: int = 0) -> Callable[[bytes], bytes]:
    """Return an edit that swaps the first two pieces of `size` bytes from `start`."""
    middle, end = start + size, start + 2 * size

    def edit(data: bytes) -> bytes:
        return data[:start] + data[middle:end] + data[start:middle] + data[end:]

    return edit


def replaced(old: bytes, new: bytes) -> Callable[[bytes], bytes]:
    """Return an edit that puts `new` in the one place of `old`."""

    def edit(data: bytes) -> bytes:
        assert data.count(old) == 1
        return data.replace(old, new)

    return edit


def pattern(size: int) -> bytes:
    """Return bytes that repeat nowhere."""
    return hashlib.shake_128(b"vectors").digest(size)


# Signers


def trusted_key() -> Ed25519PrivateKey:
    return signing_key(Randomness(SEED), 0)


def stranger_key() -> Ed25519PrivateKey:
    return signing_key(Randomness("stranger"), 0)


def trusted_line() -> str:
    """Return the content of inputs/trusted.pub."""
    blob = public_blob(trusted_key().public_key().public_bytes_raw())
    return f"ssh-ed25519 {base64_text(blob)} vectors\n"


def reenveloped(made: SealedFiles, envelope: Json) -> Vector:
    """Return the model with another envelope."""
    made.files[made.envelope_path] = canonical(envelope)
    return as_is(made)


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
