"""A second writer and reader of the format, from docs/format.md alone.

It shares no code with ovfuse. Everything but age files is a function of a seed, so
that test vectors can be made again byte for byte; `Edits` break one thing each.
"""

from __future__ import annotations

import base64
import copy
import hashlib
import hmac
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyrage
from blake3 import blake3
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ed25519 import (
    Ed25519PrivateKey,
    Ed25519PublicKey,
)
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

Json = dict[str, Any]

CHUNK = 16384
ENCRYPTED_CHUNK = 16400
BLOCK = 65600
PREFIX = 56
ALGORITHM = b"c2sp.org/chunked-encryption@v1+AEAD_AES_256_GCM\0"
PAYLOAD_TYPE = "application/vnd.ovfuse.sealing.v1"
SEALED_AT = 1_800_000_000
NO_TERMS: Json = {"machines": [], "not_after": None, "not_before": None, "text": ""}


class Randomness:
    """Random values from a seed: one for each label, whatever else is drawn."""

    def __init__(self, seed: str) -> None:
        self._seed = seed.encode() + b"\0"

    def draw(self, label: str, size: int) -> bytes:
        return hashlib.shake_256(self._seed + label.encode()).digest(size)


# Encryption


@dataclass(frozen=True)
class Derived:
    """What a message's key derivation goes through."""

    info: bytes
    key: bytes
    nonce: bytes
    commitment: bytes


def derive(model_key: bytes, salt: bytes, context: bytes) -> Derived:
    info = ALGORITHM + salt + context
    okm = HKDFExpand(hashes.SHA512(), 32 + 12 + 32, info).derive(model_key)
    return Derived(info, okm[:32], okm[32:44], okm[44:])


def chunk_nonce(nonce: bytes, number: int) -> bytes:
    mask = number.to_bytes(12, "big")
    return bytes(a ^ b for a, b in zip(nonce, mask, strict=True))


def manifest_context(clear_facts: bytes) -> bytes:
    return b"ovfuse.manifest.v1\0" + hashlib.sha256(clear_facts).digest()


def object_context(seal_id: str, object_id: str) -> bytes:
    return b"ovfuse.object.v1\0" + bytes.fromhex(seal_id) + bytes.fromhex(object_id)


def encrypt_message(
    model_key: bytes, salt: bytes, context: bytes, plaintext: bytes
) -> bytes:
    derived = derive(model_key, salt, context)
    pieces = [salt, derived.commitment]
    for number in range(len(plaintext) // CHUNK + 1):
        chunk = plaintext[CHUNK * number : CHUNK * (number + 1)]
        nonce = chunk_nonce(derived.nonce, number)
        pieces.append(AESGCM(derived.key).encrypt(nonce, chunk, None))
    return b"".join(pieces)


def decrypt_message(model_key: bytes, context: bytes, message: bytes) -> bytes:
    derived = derive(model_key, message[:24], context)
    assert derived.commitment == message[24:PREFIX]
    pieces = []
    body = message[PREFIX:]
    count = len(body) // ENCRYPTED_CHUNK + 1
    for number in range(count):
        chunk = body[ENCRYPTED_CHUNK * number : ENCRYPTED_CHUNK * (number + 1)]
        nonce = chunk_nonce(derived.nonce, number)
        pieces.append(AESGCM(derived.key).decrypt(nonce, chunk, None))
    plaintext = b"".join(pieces)
    assert len(plaintext) // CHUNK + 1 == count
    return plaintext


def recipient_name_key(model_key: bytes) -> bytes:
    info = b"ovfuse.recipient.v1"
    return HKDFExpand(hashes.SHA512(), 32, info).derive(model_key)


def key_file_name(model_key: bytes, recipient: str) -> str:
    mac = hmac.digest(recipient_name_key(model_key), recipient.encode(), "sha256")
    return f"{mac[:16].hex()}.age"


# Block lists


def block_list(message: bytes) -> bytes:
    body = message[PREFIX:]
    return b"".join(
        blake3(body[start : start + BLOCK]).digest()
        for start in range(0, len(body), BLOCK)
    )


def block_list_hash(message: bytes, entries: bytes) -> str:
    return blake3(message[:PREFIX] + entries).hexdigest()


# JSON, payload, envelope


def canonical(value: object) -> bytes:
    text = json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    return text.encode()


def base64_text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def pae(payload: bytes) -> bytes:
    kind = PAYLOAD_TYPE.encode()
    return b"DSSEv1 33 " + kind + b" " + str(len(payload)).encode() + b" " + payload


def public_blob(raw: bytes) -> bytes:
    return b"\0\0\0\x0bssh-ed25519\0\0\0\x20" + raw


def join_payload(clear_facts: bytes, manifest_message: bytes) -> bytes:
    return len(clear_facts).to_bytes(4, "big") + clear_facts + manifest_message


def split_payload(payload: bytes) -> tuple[bytes, bytes]:
    end = 4 + int.from_bytes(payload[:4], "big")
    return payload[4:end], payload[end:]


def sign(payload: bytes, signing_keys: Sequence[Ed25519PrivateKey]) -> Json:
    return {
        "payload": base64_text(payload),
        "payloadType": PAYLOAD_TYPE,
        "signatures": [
            {
                "keyid": base64_text(public_blob(key.public_key().public_bytes_raw())),
                "sig": base64_text(key.sign(pae(payload))),
            }
            for key in signing_keys
        ],
    }


# Whole models


@dataclass(frozen=True, kw_only=True)
class Plain:
    """What is to be sealed. `padded` says how large some files are encrypted."""

    files: Mapping[str, bytes]
    directories: Sequence[str] = ()
    name: str = "model"
    padded: Mapping[str, int] = field(default_factory=dict)
    version: int = 1
    sealed_at: int = SEALED_AT
    previous: Json | None = None
    terms: Json = field(default_factory=lambda: copy.deepcopy(NO_TERMS))
    signers: int = 1

    def all_directories(self) -> list[str]:
        """Return the directories named, and those that files and directories need."""
        found = set(self.directories)
        for path in (*self.files, *self.directories):
            parts = path.split("/")[:-1]
            found.update("/".join(parts[: n + 1]) for n in range(len(parts)))
        return sorted(found, key=str.encode)


def _as_it_is(value: bytes) -> bytes:
    return value


def _path_as_it_is(_: str, value: bytes) -> bytes:
    return value


def _leave(_: Json) -> None:
    pass


@dataclass(frozen=True, kw_only=True)
class Edits:
    """What to change, each at the one moment of writing that its name says.

    Those of JSON objects change them in place. What is changed is then used as if it
    were right: encrypted, hashed and signed. To break what is written, change `files`
    of the result.
    """

    content: Callable[[str, bytes], bytes] = _path_as_it_is
    """Of a path, padded, before it is encrypted."""
    message: Callable[[str, bytes], bytes] = _path_as_it_is
    """The object of a path, before it is hashed."""
    blocks: Callable[[str, bytes], bytes] = _path_as_it_is
    """The block list of a path, before it is hashed."""
    clear_facts: Callable[[Json], object] = _leave
    clear_facts_json: Callable[[bytes], bytes] = _as_it_is
    manifest: Callable[[Json], object] = _leave
    manifest_json: Callable[[bytes], bytes] = _as_it_is
    manifest_message: Callable[[bytes], bytes] = _as_it_is
    payload: Callable[[bytes], bytes] = _as_it_is
    """Before it is signed."""
    envelope: Callable[[Json], object] = _leave
    """After it is signed."""
    envelope_json: Callable[[bytes], bytes] = _as_it_is


NO_EDITS = Edits()


@dataclass(kw_only=True)
class SealedFiles:
    """A sealed model in memory, and all that its keys are.

    `files` maps paths below the sealed model's directory to bytes, ready to be written.
    """

    plain: Plain
    seal_id: str
    model_id: str
    model_key: bytes
    signing_keys: Sequence[Ed25519PrivateKey]
    clear_facts: bytes
    manifest: Json
    files: dict[str, bytes]

    def path_of(self, name: str) -> str:
        """Return the path of `blocks`, `keys/x.age` and the like of the sealing."""
        return f"seals/{self.seal_id}/{name}"

    @property
    def envelope_path(self) -> str:
        return self.path_of("manifest.dsse.json")

    @property
    def payload(self) -> bytes:
        envelope = json.loads(self.files[self.envelope_path])
        return base64.b64decode(envelope["payload"])

    def object_path(self, path: str) -> str:
        """Return where the object of a file of the model is."""
        (entry,) = (e for e in self.manifest["files"] if e["path"] == path)
        return self.path_of(f"objects/{entry['object_id']}")

    def add_key_file(self, recipient: str, key: bytes | None = None) -> str:
        """Wrap the model key for `age1...`; return the path."""
        path = self.path_of(f"keys/{key_file_name(self.model_key, recipient)}")
        parsed = pyrage.x25519.Recipient.from_str(recipient)
        self.files[path] = pyrage.encrypt(key or self.model_key, [parsed])
        return path

    def write(self, directory: Path) -> Path:
        """Write it below a directory, which is made; return the directory."""
        for part in ("keys", "objects"):
            (directory / self.path_of(part)).mkdir(parents=True, exist_ok=True)
        for path, data in self.files.items():
            (directory / path).write_bytes(data)
        return directory


def encrypt(plain: Plain, seed: str, edits: Edits = NO_EDITS) -> SealedFiles:
    """Seal a model; everything that a writer draws comes from the seed."""
    random = Randomness(seed)
    model_key = random.draw("model key", 32)
    facts: Json = {
        "format": 1,
        "model_id": random.draw("model id", 16).hex(),
        "seal_id": random.draw("seal id", 16).hex(),
        "sealed_at": plain.sealed_at,
        "version": plain.version,
    }
    seal_id, model_id = facts["seal_id"], facts["model_id"]
    edits.clear_facts(facts)
    clear_facts = edits.clear_facts_json(canonical(facts))
    entries, objects, blocks = _encrypt_files(plain, random, seal_id, edits)
    manifest: Json = {
        "critical": [],
        "directories": plain.all_directories(),
        "extensions": {},
        "facts": copy.deepcopy(facts),
        "files": entries,
        "name": plain.name,
        "previous": plain.previous,
        "terms": copy.deepcopy(plain.terms),
    }
    edits.manifest(manifest)
    message = edits.manifest_message(
        encrypt_message(
            model_key,
            random.draw("salt of the manifest", 24),
            manifest_context(clear_facts),
            edits.manifest_json(canonical(manifest)),
        )
    )
    payload = edits.payload(join_payload(clear_facts, message))
    signing_keys = [signing_key(random, n) for n in range(plain.signers)]
    envelope = sign(payload, signing_keys)
    edits.envelope(envelope)
    base = f"seals/{seal_id}"
    files = {
        "model.ovfuse": f"ovfuse 1 {seal_id}\n".encode(),
        f"{base}/manifest.dsse.json": edits.envelope_json(canonical(envelope)),
        f"{base}/blocks": blocks,
    }
    files |= {f"{base}/objects/{name}": data for name, data in objects.items()}
    return SealedFiles(
        plain=plain,
        seal_id=seal_id,
        model_id=model_id,
        model_key=model_key,
        signing_keys=signing_keys,
        clear_facts=clear_facts,
        manifest=manifest,
        files=files,
    )


def signing_key(random: Randomness, number: int) -> Ed25519PrivateKey:
    seed = random.draw(f"signing key {number}", 32)
    return Ed25519PrivateKey.from_private_bytes(seed)


def _encrypt_files(
    plain: Plain, random: Randomness, seal_id: str, edits: Edits
) -> tuple[list[Json], dict[str, bytes], bytes]:
    """Return the entries of `files`, the objects by id, and the file `blocks`."""
    model_key = random.draw("model key", 32)
    entries = []
    objects = {}
    blocks = b""
    for path in sorted(plain.files, key=str.encode):
        content = plain.files[path]
        padded_size = plain.padded.get(path, len(content))
        object_id = random.draw(f"object id of {path}", 16).hex()
        message = encrypt_message(
            model_key,
            random.draw(f"salt of {path}", 24),
            object_context(seal_id, object_id),
            edits.content(path, content.ljust(padded_size, b"\0")),
        )
        objects[object_id] = message = edits.message(path, message)
        entries_of_list = edits.blocks(path, block_list(message))
        blocks += entries_of_list
        entries.append(
            {
                "block_list_hash": block_list_hash(message, entries_of_list),
                "object_id": object_id,
                "padded_size": padded_size,
                "path": path,
                "plaintext_sha256": hashlib.sha256(content).hexdigest(),
                "size": len(content),
            }
        )
    return entries, objects, blocks


# Reading


@dataclass(frozen=True)
class ReadBack:
    """What a sealed model holds."""

    facts: Json
    manifest: Json
    signers: list[bytes]
    files: dict[str, bytes]


def decrypt(directory: Path, model_key: bytes) -> ReadBack:
    """Read a whole sealed model whose key is known; whatever is wrong is asserted."""
    pointer = (directory / "model.ovfuse").read_bytes()
    assert (len(pointer), pointer[:9], pointer[-1:]) == (42, b"ovfuse 1 ", b"\n")
    seal_id = pointer[9:-1].decode()
    sealing = directory / "seals" / seal_id
    envelope_json = (sealing / "manifest.dsse.json").read_bytes()
    envelope = json.loads(envelope_json)
    assert canonical(envelope) == envelope_json
    payload = base64.b64decode(envelope["payload"])
    clear_facts, message = split_payload(payload)
    facts = json.loads(clear_facts)
    manifest_json = decrypt_message(model_key, manifest_context(clear_facts), message)
    manifest = json.loads(manifest_json)
    assert canonical(facts) == clear_facts
    assert canonical(manifest) == manifest_json
    assert manifest["facts"] == facts
    assert facts["seal_id"] == seal_id
    return ReadBack(
        facts,
        manifest,
        _verified_signers(envelope, payload),
        _decrypt_files(sealing, manifest, model_key),
    )


def _verified_signers(envelope: Json, payload: bytes) -> list[bytes]:
    assert envelope["payloadType"] == PAYLOAD_TYPE
    signers = []
    for signature in envelope["signatures"]:
        raw = base64.b64decode(signature["keyid"])[-32:]
        assert base64.b64decode(signature["keyid"]) == public_blob(raw)
        key = Ed25519PublicKey.from_public_bytes(raw)
        key.verify(base64.b64decode(signature["sig"]), pae(payload))
        signers.append(raw)
    return signers


def _decrypt_files(sealing: Path, manifest: Json, model_key: bytes) -> dict[str, bytes]:
    found = {}
    lists = b""
    for entry in manifest["files"]:
        message = (sealing / "objects" / entry["object_id"]).read_bytes()
        entries = block_list(message)
        assert block_list_hash(message, entries) == entry["block_list_hash"]
        lists += entries
        context = object_context(manifest["facts"]["seal_id"], entry["object_id"])
        padded = decrypt_message(model_key, context, message)
        content, padding = padded[: entry["size"]], padded[entry["size"] :]
        assert len(padded) == entry["padded_size"]
        assert padding == bytes(len(padding))
        assert hashlib.sha256(content).hexdigest() == entry["plaintext_sha256"]
        found[entry["path"]] = content
    assert (sealing / "blocks").read_bytes() == lists
    assert {path.name for path in (sealing / "objects").iterdir()} == {
        entry["object_id"] for entry in manifest["files"]
    }
    return found
