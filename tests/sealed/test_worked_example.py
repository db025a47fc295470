"""The worked example of docs/format.md: made again, compared, and opened."""

import hashlib
import hmac
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from ovfuse.sealed.opening import SealedModel
from ovfuse.sealed.primitives import recipient_file_id
from ovfuse.sealed.reader import ScratchPool
from ovfuse.sealed.terms import machine_digest
from ovfuse.sealed.wrapping import Identity
from ovfuse.secret import Secret
from tests.support import encryptor
from tests.support.sealed import make_identity, wrapped

DOCUMENT = Path(__file__).parents[2] / "docs" / "format.md"
SEED = "ovfuse worked example"
PLAIN = encryptor.Plain(
    name="example", files={"model.xml": b"<net/>\n", "weights/empty.bin": b""}
)
AGE_RECIPIENT = "age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p"
MACHINE_ID = "0123456789abcdef0123456789abcdef"


def read_document() -> dict[str, str]:
    """Return what the section says: `label = value`, continued on indented lines."""
    text = DOCUMENT.read_text(encoding="utf-8")
    (section,) = (s for s in text.split("\n## ") if s.startswith("Worked example\n"))
    found: dict[str, str] = {}
    for block in section.split("```\n")[1::2]:
        heading, label = "", ""
        for line in block.splitlines():
            if line.startswith("["):
                heading = line.strip("[]")
            elif line.startswith("  "):
                found[label] += line[2:]
            else:
                name, _, value = line.partition(" =")
                label = f"{heading}: {name}".removeprefix(": ")
                assert label not in found
                found[label] = value.removeprefix(" ")
    return found


def derived_values(
    prefix: str, derived: encryptor.Derived
) -> Iterator[tuple[str, str]]:
    yield f"{prefix}: info", derived.info.hex()
    yield f"{prefix}: key", derived.key.hex()
    yield f"{prefix}: nonce", derived.nonce.hex()
    yield f"{prefix}: commitment", derived.commitment.hex()


def object_values(
    path: str, sealed: encryptor.SealedFiles
) -> Iterator[tuple[str, str]]:
    (entry,) = (e for e in sealed.manifest["files"] if e["path"] == path)
    message = sealed.files[sealed.object_path(path)]
    context = encryptor.object_context(sealed.seal_id, entry["object_id"])
    yield f"{path}: plaintext", PLAIN.files[path].hex()
    yield f"{path}: salt", message[:24].hex()
    yield f"{path}: object id", entry["object_id"]
    yield f"{path}: context", context.hex()
    derived = encryptor.derive(sealed.model_key, message[:24], context)
    yield from derived_values(path, derived)
    yield f"{path}: object", message.hex()
    yield f"{path}: block list", encryptor.block_list(message).hex()
    yield f"{path}: block-list hash", entry["block_list_hash"]


def manifest_values(sealed: encryptor.SealedFiles) -> Iterator[tuple[str, str]]:
    context = encryptor.manifest_context(sealed.clear_facts)
    _, message = encryptor.split_payload(sealed.payload)
    yield "manifest: clear facts", sealed.clear_facts.decode()
    yield "manifest: salt", message[:24].hex()
    yield "manifest: context", context.hex()
    derived = encryptor.derive(sealed.model_key, message[:24], context)
    yield from derived_values("manifest", derived)
    yield "manifest: plaintext", encryptor.canonical(sealed.manifest).decode()
    yield "manifest: message SHA-256", hashlib.sha256(message).hexdigest()


def envelope_values(sealed: encryptor.SealedFiles) -> Iterator[tuple[str, str]]:
    payload = sealed.payload
    pae = encryptor.pae(payload)
    (key,) = sealed.signing_keys
    (signature,) = json.loads(sealed.files[sealed.envelope_path])["signatures"]
    yield "envelope: payload begins", payload[:4].hex()
    yield "envelope: payload length", str(len(payload))
    yield "envelope: payload SHA-256", hashlib.sha256(payload).hexdigest()
    yield "envelope: PAE begins", pae[: -len(payload)].hex()
    yield "envelope: PAE SHA-256", hashlib.sha256(pae).hexdigest()
    yield "envelope: signing key", key.private_bytes_raw().hex()
    yield "envelope: public key", key.public_key().public_bytes_raw().hex()
    yield "envelope: signature", key.sign(pae).hex()
    yield "envelope: keyid", signature["keyid"]
    yield "envelope: envelope", sealed.files[sealed.envelope_path].decode()
    yield "envelope: pointer", sealed.files["model.ovfuse"].hex()
    yield "envelope: blocks", sealed.files[sealed.path_of("blocks")].hex()


def recipients(sealed: encryptor.SealedFiles) -> list[str]:
    raw = sealed.signing_keys[0].public_key().public_bytes_raw()
    ssh = f"ssh-ed25519 {encryptor.base64_text(encryptor.public_blob(raw))}"
    return [AGE_RECIPIENT, ssh, "passphrase"]


def key_values(sealed: encryptor.SealedFiles) -> Iterator[tuple[str, str]]:
    name_key = encryptor.recipient_name_key(sealed.model_key)
    yield "keys: key of the HMAC", name_key.hex()
    for number, recipient in enumerate(recipients(sealed), start=1):
        yield f"keys: recipient {number}", recipient
        name = encryptor.key_file_name(sealed.model_key, recipient)
        yield f"keys: file name {number}", name
    machine = bytes.fromhex(MACHINE_ID)
    yield "keys: machine-id", MACHINE_ID
    digest = hmac.digest(machine, b"ovfuse.machine.v1", "sha256")
    yield "keys: machine", digest.hex()


def compute(sealed: encryptor.SealedFiles) -> dict[str, str]:
    return {
        "model key": sealed.model_key.hex(),
        "model id": sealed.model_id,
        "seal id": sealed.seal_id,
        **dict(object_values("model.xml", sealed)),
        **dict(object_values("weights/empty.bin", sealed)),
        **dict(manifest_values(sealed)),
        **dict(envelope_values(sealed)),
        **dict(key_values(sealed)),
    }


@pytest.fixture(scope="module")
def sealed() -> encryptor.SealedFiles:
    return encryptor.encrypt(PLAIN, SEED)


def test_document_has_what_its_rules_give(sealed: encryptor.SealedFiles) -> None:
    assert read_document() == compute(sealed)


def write_from_document(directory: Path, identity: Identity) -> None:
    """Write the sealed model that the document prints, and a key file."""
    said = read_document()
    sealing = directory / "seals" / said["seal id"]
    (sealing / "objects").mkdir(parents=True)
    (sealing / "keys").mkdir()
    (directory / "model.ovfuse").write_bytes(bytes.fromhex(said["envelope: pointer"]))
    (sealing / "manifest.dsse.json").write_text(said["envelope: envelope"])
    (sealing / "blocks").write_bytes(bytes.fromhex(said["envelope: blocks"]))
    for path in PLAIN.files:
        data = bytes.fromhex(said[f"{path}: object"])
        (sealing / "objects" / said[f"{path}: object id"]).write_bytes(data)
    key_file = wrapped(bytes.fromhex(said["model key"]), identity)
    (sealing / "keys" / f"{'00' * 16}.age").write_bytes(key_file)


def test_document_can_be_opened(tmp_path: Path) -> None:
    identity = make_identity()
    write_from_document(tmp_path, identity)
    with SealedModel.open(tmp_path) as model, model.current() as locked:
        sealing = locked.unlock([identity], ScratchPool())
    content = {
        entry.path: b"".join(map(bytes, sealing.stream_file(entry)))
        for entry in sealing.manifest.files
    }
    sealing.close()

    assert sealing.manifest.name == "example"
    assert sealing.manifest.directories == ("weights",)
    assert content == PLAIN.files
    said = read_document()
    assert [key.raw.hex() for key in locked.envelope.signers] == [
        said["envelope: public key"]
    ]
    assert locked.envelope.payload_sha256 == said["envelope: payload SHA-256"]


@pytest.mark.parametrize("number", [1, 2, 3])
def test_key_files_are_named_as_in_the_document(number: int) -> None:
    said = read_document()
    key = Secret(bytes.fromhex(said["model key"]))
    name = recipient_file_id(key.view, said[f"keys: recipient {number}"])

    assert f"{name}.age" == said[f"keys: file name {number}"]


def test_machine_is_that_of_the_document(tmp_path: Path) -> None:
    said = read_document()
    (tmp_path / "machine-id").write_text(f"{said['keys: machine-id']}\n")

    assert machine_digest(tmp_path / "machine-id") == said["keys: machine"]
