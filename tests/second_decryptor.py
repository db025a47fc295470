"""A second decryptor of sealed models, written from docs/format.md alone."""

import base64
import hmac
import json
import re
import subprocess
import sys
from contextlib import suppress
from hashlib import sha256
from itertools import accumulate, pairwise
from pathlib import Path
from time import time
from typing import Any

from blake3 import blake3
from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA512
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand
from cryptography.hazmat.primitives.serialization import load_ssh_public_key

DAMAGE = (InvalidSignature, InvalidTag, OSError, RecursionError, ValueError)
# A rule for a value is a pattern, a range of integers, the members of an object, the
# rule of an array's items and its cap, or a tuple: of what may be null.
TEXT, ID, HASH, SIZE = ".{,65536}", "[0-9a-f]{32}", "[0-9a-f]{64}", range(2**40 + 1)
TIME, LABEL = (range(2**53),), "[a-z0-9][a-z0-9._-]{0,63}"
BASE64 = "[A-Za-z0-9+/]*([AQgw]==|[AEIMQUYcgkosw048]=)?"  # no loose bits
PART = "(?!\\.\\.?(/|\\Z))[^/\0]{1,255}"
PATH = f"(?=.{{,4095}}\\Z){PART}(/{PART}){{,63}}"
NAME = f"(?=.{{,1024}}\\Z)(?!.*@[0-9]+\\Z){PATH}"
ENVELOPE: Any = {"payloadType": re.escape("application/vnd.ovfuse.sealing.v1")}
ENVELOPE |= {"payload": BASE64, "signatures": [{"keyid": BASE64, "sig": BASE64}, 16]}
FACTS: Any = {"format": range(1, 2), "model_id": ID, "seal_id": ID}
FACTS |= {"sealed_at": range(2**33 + 1), "version": range(1, 2**53)}
FILE: Any = {"block_list_hash": HASH, "object_id": ID, "padded_size": SIZE}
FILE |= {"path": PATH, "plaintext_sha256": HASH, "size": SIZE}
TERMS = {"machines": [HASH, 10000], "not_after": TIME, "not_before": TIME, "text": TEXT}
MANIFEST: Any = {"directories": [PATH, 100000], "files": [FILE, 100000], "name": NAME}
MANIFEST |= {"critical": [LABEL, 64], "extensions": dict, "facts": FACTS}
MANIFEST |= {"previous": ({"payload_sha256": HASH, "seal_id": ID},), "terms": TERMS}


class RefusedError(ValueError):
    """Its argument is the class of the document; any other of DAMAGE is damage."""


def need(condition: object, kind: str = "damaged") -> None:
    if not condition:
        raise RefusedError(kind)


def fits(it: Any, rule: Any) -> bool:
    if isinstance(rule, tuple):
        return it is None or fits(it, rule[0])
    if isinstance(rule, range):
        return type(it) is int and it in rule
    if type(it) is not type(rule):
        return type(it) is rule
    if isinstance(rule, list):
        return len(it) <= rule[1] and all(fits(item, rule[0]) for item in it)
    if isinstance(rule, dict):
        return it.keys() == rule.keys() and all(fits(it[n], rule[n]) for n in rule)
    return re.fullmatch(rule.encode(), it.encode(), re.DOTALL) is not None


def parse(data: bytes, rule: Any) -> Any:
    found, form = json.loads(data), (",", ":")
    text = json.dumps(found, ensure_ascii=False, sort_keys=True, separators=form)
    need(text.encode() == data and fits(found, rule))
    return found


def read(directory: Path, name: str, cap: int = 2**41) -> bytes:
    path = directory / name
    need(path.resolve() == directory.resolve() / name and path.is_file())  # no links
    with path.open("rb") as file:
        return file.read(min(path.stat().st_size, cap))


def decrypt(key: bytes, context: bytes, message: bytes, first: int = 0) -> bytes:
    info = b"c2sp.org/chunked-encryption@v1+AEAD_AES_256_GCM\0" + message[:24] + context
    okm = HKDFExpand(SHA512(), 76, info).derive(key)
    need(okm[44:] == message[24:56])
    aead, nonce, found = AESGCM(okm[:32]), int.from_bytes(okm[32:44], "big"), b""
    for number, start in enumerate(range(56, len(message), 16400), first):
        own = (nonce ^ number).to_bytes(12, "big")
        found += aead.decrypt(own, message[start : start + 16400], None)
    return found


class Model:
    # `told` may be name, place, seen, now, machine_id; there is no state of its own.
    def __init__(self, tree: Path, identity: Path, trusted: Path, **told: Any) -> None:
        tree /= told.get("place", "")
        pointer = read(tree, "model.ovfuse", 128)
        need(not re.match(rb"ovfuse ([2-9]|[1-9][0-9])", pointer), "newer")
        need(re.fullmatch(rb"ovfuse 1 [0-9a-f]{32}\n", pointer))
        self.sealing = tree / "seals" / pointer[9:41].decode()
        name = f"seals/{self.sealing.name}/manifest.dsse.json"
        need(len(data := read(tree, name, 2**27 + 1)) <= 2**27)
        envelope = parse(data, ENVELOPE)
        payload = base64.b64decode(envelope["payload"], validate=True)
        pae = f"DSSEv1 33 {envelope['payloadType']} {len(payload)} ".encode()
        for found in envelope["signatures"]:
            signer: Any = load_ssh_public_key(b"ssh-ed25519 " + found["keyid"].encode())
            signer.verify(base64.b64decode(found["sig"], validate=True), pae + payload)
        known = {line.split()[1] for line in trusted.read_text().splitlines()}
        need(known & {found["keyid"] for found in envelope["signatures"]}, "untrusted")
        end = 4 + int.from_bytes(payload[:4], "big")
        clear_facts, message = payload[4:end], payload[end:]
        need(end <= 4100 and len(message) >= 72)
        facts = parse(clear_facts, FACTS)
        need(facts["seal_id"] == self.sealing.name)
        seen = told.get("seen", {"version": 0})
        same = seen.get("payload_sha256") == sha256(payload).hexdigest()
        need(facts["version"] > seen["version"] or same, "rollback")
        need(facts["model_id"] == seen.get("model_id", facts["model_id"]), "rollback")
        context = b"ovfuse.manifest.v1\0" + sha256(clear_facts).digest()
        need((len(message) - 56) % 16400)  # the final chunk is never a full one
        self.manifest = parse(self.unlock(identity, context, message), MANIFEST)
        need(self.manifest["facts"] == facts)
        self.check_manifest(self.manifest, self.manifest["terms"], told)
        self.files = {file["path"]: file for file in self.manifest["files"]}
        count = [file["padded_size"] // 65536 + 1 for file in self.files.values()]
        self.ends = dict(zip(self.files, accumulate(count), strict=True))
        self.lists = read(self.sealing, "blocks", 32 * sum(count) + 1)
        need(len(self.lists) == 32 * sum(count) and (self.sealing / "objects").is_dir())

    def unlock(self, identity: Path, context: bytes, message: bytes) -> bytes:
        keys = self.sealing / "keys"
        need(len(paths := list(keys.iterdir())) <= 1024 and not keys.is_symlink())
        for name in (path.name for path in paths):
            with suppress(RefusedError):
                need(re.fullmatch(r"[0-9a-f]{32}\.age", name))
                data = read(keys, name, 65537)
                need(data[:22] == b"age-encryption.org/v1\n" and len(data) <= 65536)
                need(data.partition(b"\n--- ")[0].count(b"\n-> ") <= 8)
                age = ["age", "--decrypt", "-i", str(identity)]
                key = subprocess.run(age, input=data, capture_output=True, check=False)
                need(key.returncode == 0 and len(key.stdout) == 32)
                self.key = key.stdout
                return decrypt(self.key, context, message)
        raise RefusedError("no usable key")

    def check_manifest(self, it: Any, terms: Any, told: Any) -> None:
        files, name, extra = it["files"], it["name"], it["extensions"]
        paths = [file["path"] for file in files]
        for group in (it["directories"], paths, it["critical"], terms["machines"]):
            need(all(a.encode() < b.encode() for a, b in pairwise(group)))
        known = {"", *it["directories"]}
        need(known.isdisjoint(paths))
        need({path.rpartition("/")[0] for path in (*known, *paths)} <= known)
        need(all(file["size"] <= file["padded_size"] for file in files))
        need(sum(file["padded_size"] for file in files) <= 2**44)
        need(len({file["object_id"] for file in files}) == len(files))
        need(fits([*extra], [LABEL, 64]) and fits([*extra.values()], [TEXT, 64]))
        need(extra.keys() >= set(it["critical"]))
        start, end = terms["not_before"], terms["not_after"]
        need(start is None or end is None or start < end)
        need(not it["critical"], "newer")
        need(told.get("name", name) == name, "untrusted")
        need(f"/{told.get('place', name)}".endswith(f"/{name}"), "untrusted")
        now = told.get("now", time())
        need((start is None or now >= start) and (end is None or now < end), "terms")
        if terms["machines"]:
            text = told.get("machine_id") or Path("/etc/machine-id").read_text()
            machine = hmac.digest(bytes.fromhex(text), b"ovfuse.machine.v1", "sha256")
            need(machine.hex() in terms["machines"], "terms")

    def block(self, path: str, number: int) -> bytes:
        file, end = self.files[path], 32 * self.ends[path]
        size, object_id = file["padded_size"], file["object_id"]
        data = read(self.sealing, f"objects/{object_id}")
        need(len(data) == 56 + size + 16 * (size // 16384 + 1))
        entries = self.lists[end - 32 * (size // 65536 + 1) : end]
        need(blake3(data[:56] + entries).hexdigest() == file["block_list_hash"])
        block = data[56 + 65600 * number :][:65600]
        need(blake3(block).digest() == entries[32 * number :][:32])
        context = b"ovfuse.object.v1\0" + bytes.fromhex(self.sealing.name + object_id)
        return decrypt(self.key, context, data[:56] + block, 4 * number)

    def whole(self, path: str) -> bytes:
        file = self.files[path]
        numbers = range(file["padded_size"] // 65536 + 1)
        data = b"".join(self.block(path, number) for number in numbers)
        data, padding = data[: file["size"]], data[file["size"] :]
        need(sha256(data).hexdigest() == file["plaintext_sha256"] and not any(padding))
        return data


if __name__ == "__main__":  # second_decryptor.py MODEL IDENTITY TRUSTED.pub OUT
    try:
        model, out = Model(*map(Path, sys.argv[1:4])), Path(sys.argv[4])
        for path in model.manifest["directories"]:
            (out / path).mkdir()
        for path in model.files:
            (out / path).write_bytes(model.whole(path))
    except DAMAGE as error:
        sys.exit(f"refused: {error if isinstance(error, RefusedError) else 'damaged'}")
