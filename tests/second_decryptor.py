"""A second decryptor of sealed models, written from docs/format.md alone.

    python second_decryptor.py MODEL IDENTITY TRUSTED.pub [OUT]

Reads a sealed model whole, and writes it below OUT, if that is given. Age files are
left to the age command. It asks for no passphrase and remembers nothing.
"""

import base64
import hashlib
import hmac
import json
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

from blake3 import blake3
from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA512
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

# A rule for a value is a pattern, a range of integers, the members of an object, the
# rule of an array's items and its cap, or a tuple: of what may be null.
TEXT, ID, HASH, SIZE = ".*", "[0-9a-f]{32}", "[0-9a-f]{64}", range(2**40 + 1)
TIME = (range(2**53),)
TYPE = "application/vnd.ovfuse.sealing.v1"
ENVELOPE: dict[str, Any] = {"payload": TEXT, "payloadType": re.escape(TYPE)}
ENVELOPE["signatures"] = [{"keyid": TEXT, "sig": TEXT}, 16]
FACTS: dict[str, Any] = {"format": range(1, 2), "model_id": ID, "seal_id": ID}
FACTS |= {"sealed_at": range(2**33 + 1), "version": range(1, 2**53)}
FILE: dict[str, Any] = {"block_list_hash": HASH, "object_id": ID, "padded_size": SIZE}
FILE |= {"path": TEXT, "plaintext_sha256": HASH, "size": SIZE}
TERMS = {"machines": [HASH, 10000], "not_after": TIME, "not_before": TIME, "text": TEXT}
MANIFEST: dict[str, Any] = {"directories": [TEXT, 100000], "files": [FILE, 100000]}
MANIFEST |= {"critical": [TEXT, 64], "extensions": dict, "facts": FACTS, "name": TEXT}
MANIFEST |= {"previous": ({"payload_sha256": HASH, "seal_id": ID},), "terms": TERMS}


class RefusedError(Exception):
    """Its argument is the class of the document."""


@contextmanager
def refusing() -> Iterator[None]:
    try:
        yield
    except (InvalidSignature, InvalidTag, OSError, RecursionError, ValueError) as error:
        raise RefusedError("damaged") from error


def need(condition: object, kind: str = "damaged") -> None:
    if not condition:
        raise RefusedError(kind)


def fits(value: Any, rule: Any) -> bool:
    if isinstance(rule, tuple):
        return value is None or fits(value, rule[0])
    if isinstance(rule, range):
        return type(value) is int and value in rule
    if isinstance(rule, list):
        array = type(value) is list and len(value) <= rule[1]
        return array and all(fits(item, rule[0]) for item in value)
    if isinstance(rule, dict):
        same = type(value) is dict and value.keys() == rule.keys()
        return same and all(fits(value[name], rule[name]) for name in rule)
    if isinstance(rule, str):
        return type(value) is str and re.fullmatch(rule, value, re.DOTALL) is not None
    return type(value) is rule


def parse(data: bytes, rule: Any) -> Any:
    found, form = json.loads(data), (",", ":")
    text = json.dumps(found, ensure_ascii=False, sort_keys=True, separators=form)
    need(text.encode() == data and fits(found, rule))
    return found


def from_base64(text: str) -> bytes:
    need(base64.b64encode(data := base64.b64decode(text)).decode() == text)
    return data


def read(directory: Path, name: str, cap: int = 2**41) -> bytes:
    path = directory / name
    need(path.resolve() == directory.resolve() / name and path.is_file())  # no links
    with path.open("rb") as file:
        return file.read(min(path.stat().st_size, cap))


def chunks(size: int) -> int:
    return size // 16384 + 1


def blocks(size: int) -> int:
    return -(-chunks(size) // 4)


def decrypt(
    key: bytes, context: bytes, prefix: bytes, body: bytes, first: int = 0
) -> bytes:
    info = b"c2sp.org/chunked-encryption@v1+AEAD_AES_256_GCM\0" + prefix[:24] + context
    okm = HKDFExpand(SHA512(), 76, info).derive(key)
    need(okm[44:] == prefix[24:])
    aead, nonce, found = AESGCM(okm[:32]), int.from_bytes(okm[32:44], "big"), b""
    for number, start in enumerate(range(0, len(body), 16400), first):
        own = (nonce ^ number).to_bytes(12, "big")
        found += aead.decrypt(own, body[start : start + 16400], None)
    return found


def is_path(text: str, cap: int = 4095) -> bool:
    parts = text.split("/")
    sizes = [len(part.encode()) for part in parts]
    whole = len(parts) <= 64 and len(text.encode()) <= cap and "\0" not in text
    return whole and max(sizes) <= 255 and not {"", ".", ".."} & set(parts)


class Model:
    """An opened model. `told`: name, place, seen, now, machine_id, as far as known."""

    @refusing()
    def __init__(self, tree: Path, identity: Path, trusted: Path, told: Any) -> None:
        tree /= told.get("place", "")
        pointer = read(tree, "model.ovfuse", 128)
        need(version := re.match(rb"ovfuse ([1-9][0-9]*)", pointer))
        need(version and version[1] == b"1", "newer")
        need(re.fullmatch(rb"ovfuse 1 [0-9a-f]{32}\n", pointer))
        self.seal_id = pointer[9:41].decode()
        self.sealing = tree / "seals" / self.seal_id
        payload = self.verified_payload(tree, trusted.read_text())
        end = 4 + int.from_bytes(payload[:4], "big")
        need(end <= 4100 and len(payload) >= end + 72)
        clear_facts, prefix = payload[4:end], payload[end : end + 56]
        facts = parse(clear_facts, FACTS)
        need(facts["seal_id"] == self.seal_id)
        seen = told.get("seen", {"version": 0})
        same = seen.get("payload_sha256") == hashlib.sha256(payload).hexdigest()
        need(facts["version"] > seen["version"] or same, "rollback")
        need(facts["model_id"] == seen.get("model_id", facts["model_id"]), "rollback")
        context = b"ovfuse.manifest.v1\0" + hashlib.sha256(clear_facts).digest()
        self.key = self.find_key(identity, prefix, context)
        plaintext = decrypt(self.key, context, prefix, payload[end + 56 :])
        need(len(payload) == end + 56 + len(plaintext) + 16 * chunks(len(plaintext)))
        self.manifest = parse(plaintext, MANIFEST)
        self.check_manifest(facts)
        self.check_use(told)
        self.files = {entry["path"]: entry for entry in self.manifest["files"]}
        counts = [blocks(entry["padded_size"]) for entry in self.files.values()]
        self.ends = dict(zip(self.files, accumulate(counts), strict=True))
        self.lists = read(self.sealing, "blocks", 32 * sum(counts) + 1)
        need(len(self.lists) == 32 * sum(counts))

    def verified_payload(self, tree: Path, trusted: str) -> bytes:
        name = f"seals/{self.seal_id}/manifest.dsse.json"
        need(len(data := read(tree, name, 2**27 + 1)) <= 2**27)
        envelope = parse(data, ENVELOPE)
        payload = from_base64(envelope["payload"])
        message = f"DSSEv1 33 {TYPE} {len(payload)} ".encode() + payload
        for signature in envelope["signatures"]:
            blob = from_base64(signature["keyid"])
            need(blob[:-32] == b"\0\0\0\x0bssh-ed25519\0\0\0\x20")
            signer = Ed25519PublicKey.from_public_bytes(blob[-32:])
            signer.verify(from_base64(signature["sig"]), message)
        known = {line.split()[1] for line in trusted.splitlines()}
        need(known & {s["keyid"] for s in envelope["signatures"]}, "untrusted")
        return payload

    def find_key(self, identity: Path, prefix: bytes, context: bytes) -> bytes:
        keys = self.sealing / "keys"
        need(keys.is_dir() and not keys.is_symlink())
        need(len(names := [path.name for path in keys.iterdir()]) <= 1024)
        for name in filter(re.compile(r"[0-9a-f]{32}\.age").fullmatch, names):
            with suppress(RefusedError):
                header = (data := read(keys, name, 65537)).partition(b"\n--- ")[0]
                need(len(data) <= 65536 and header.count(b"\n-> ") <= 8)
                need(header.startswith(b"age-encryption.org/v1\n"))
                age = ["age", "--decrypt", "-i", str(identity)]
                key = subprocess.run(age, input=data, capture_output=True, check=False)
                need(key.returncode == 0 and len(key.stdout) == 32)
                decrypt(key.stdout, context, prefix, b"")
                return key.stdout
        raise RefusedError("no usable key")

    def check_manifest(self, facts: Any) -> None:
        it, terms, files = self.manifest, self.manifest["terms"], self.manifest["files"]
        paths, extensions = [entry["path"] for entry in files], it["extensions"]
        need(it["facts"] == facts)
        for group in (it["directories"], paths, it["critical"], terms["machines"]):
            need(all(a.encode() < b.encode() for a, b in pairwise(group)))
        known = {"", *it["directories"]}
        for path in (*it["directories"], *paths):
            need(is_path(path) and path.rpartition("/")[0] in known)
        need(known.isdisjoint(paths))
        need(all(entry["size"] <= entry["padded_size"] for entry in files))
        need(sum(entry["padded_size"] for entry in files) <= 2**44)
        need(len({entry["object_id"] for entry in files}) == len(files))
        need(is_path(it["name"], 1024) and not re.search("@[0-9]+\\Z", it["name"]))
        need(fits(list(extensions), ["[a-z0-9][a-z0-9._-]{0,63}", 64]))
        need(fits([*extensions.values(), terms["text"]], [TEXT, 65]))
        texts = [*extensions.values(), terms["text"]]
        need(all(len(text.encode()) <= 65536 for text in texts))
        need(extensions.keys() >= set(it["critical"]))
        times = terms["not_before"], terms["not_after"]
        need(None in times or times[0] < times[1])
        need(not it["critical"], "newer")

    def check_use(self, told: Any) -> None:
        name, terms = self.manifest["name"], self.manifest["terms"]
        need(told.get("name", name) == name, "untrusted")
        need(f"/{told.get('place', name)}".endswith(f"/{name}"), "untrusted")
        now = told.get("now", time.time())
        need(terms["not_before"] is None or now >= terms["not_before"], "terms")
        need(terms["not_after"] is None or now < terms["not_after"], "terms")
        if terms["machines"]:
            text = told.get("machine_id") or Path("/etc/machine-id").read_text()
            machine = hmac.digest(bytes.fromhex(text), b"ovfuse.machine.v1", "sha256")
            need(machine.hex() in terms["machines"], "terms")

    @refusing()
    def block(self, path: str, number: int) -> bytes:
        entry, end = self.files[path], 32 * self.ends[path]
        size, object_id = entry["padded_size"], entry["object_id"]
        data = read(self.sealing, f"objects/{object_id}")
        need(len(data) == 56 + size + 16 * chunks(size))
        entries = self.lists[end - 32 * blocks(size) : end]
        need(blake3(data[:56] + entries).hexdigest() == entry["block_list_hash"])
        block = data[56 + 65600 * number :][:65600]
        need(blake3(block).digest() == entries[32 * number :][:32])
        context = b"ovfuse.object.v1\0" + bytes.fromhex(self.seal_id + object_id)
        return decrypt(self.key, context, data[:56], block, 4 * number)

    def whole(self, path: str) -> bytes:
        entry = self.files[path]
        numbers = range(blocks(entry["padded_size"]))
        data = b"".join(self.block(path, number) for number in numbers)
        content, padding = data[: entry["size"]], data[entry["size"] :]
        need(not padding.strip(b"\0"))
        need(hashlib.sha256(content).hexdigest() == entry["plaintext_sha256"])
        return content


def main(tree: str, identity: str, trusted: str, out: str = "") -> None:
    model = Model(Path(tree), Path(identity), Path(trusted), {})
    for path in model.manifest["directories"] if out else []:
        Path(out, path).mkdir(parents=True, exist_ok=True)
    for path in model.files:
        content = model.whole(path)
        if out:
            Path(out, path).write_bytes(content)


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except RefusedError as refused:
        sys.exit(f"refused: {refused}")
