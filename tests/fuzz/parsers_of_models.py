"""Checks of what is in a cipherdir: pointer, envelope, manifest, blocks, objects."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from ovfuse.errors import (
    DamagedError,
    NewerFormatError,
    NoUsableKeyError,
    UntrustedError,
)
from ovfuse.keys import Place
from ovfuse.sealed import layout
from ovfuse.sealed.envelope import make_envelope, make_payload, parse_envelope
from ovfuse.sealed.manifest import Manifest, parse_clear_facts, parse_manifest
from ovfuse.sealed.opening import SealedModel
from ovfuse.sealed.pointer import make_pointer, parse_pointer
from ovfuse.sealed.reader import ScratchPool
from ovfuse.sealed.sealing import Sealing
from ovfuse.sealed.signing import PublicKey, SigningKey
from ovfuse.secret import Secret
from tests.fuzz.edits import edited, step
from tests.fuzz.parsers_of_keys import own_identity
from tests.support import encryptor
from tests.support.encryptor import Json, Plain
from tests.support.sealed import make_unlocker, pattern, recipient_of

_TERMS: Json = {
    "machines": ["0" * 64, "1" * 64],
    "not_after": 9,
    "not_before": 1,
    "text": "t",
}
_PAST_THE_END = b"..."  # what the reader puts behind a pointer that is too long
POINTER_SIZE = layout.POINTER_MAX_SIZE + len(_PAST_THE_END)

_SEED = "fuzz"
_SMALL = {"a": b"", "b/c.xml": b"<net/>\n", "é.bin": pattern(100)}
_LARGE = "large.bin"
_LARGE_FILES = {_LARGE: pattern(70_000)}
_LARGE_PADDED = 70_100
_RANGES = ((0, 70_001), (0, 1), (16_383, 2), (65_530, 20), (69_999, 5), (40_000, 9000))


def _made(edits: encryptor.Edits = encryptor.NO_EDITS) -> encryptor.SealedFiles:
    return encryptor.encrypt(Plain(files=_SMALL, name="m/x"), _SEED, edits)


_MADE = _made()
_SIGNING_KEY = SigningKey(_MADE.signing_keys[0])
_FACTS = parse_clear_facts(_MADE.clear_facts, _MADE.seal_id)


def is_canonical(data: bytes) -> bool:
    """Tell so by a JSON library that ovfuse does not use."""
    return encryptor.canonical(json.loads(data)) == data


# The pointer


def pointers() -> list[bytes]:
    good = make_pointer(_MADE.seal_id)
    others = [good.replace(b" 1 ", b" 2 "), b"ovfuse 10", b"ovfuse 01 " + b"0" * 32]
    return [good, *others, good[:-1], b"ovfuse 1" + b"0" * 119 + _PAST_THE_END]


def check_pointer(data: bytes) -> bool:
    try:
        seal_id = parse_pointer(data)
    except (DamagedError, NewerFormatError):
        return False
    assert make_pointer(seal_id) == data
    assert layout.is_id(seal_id)
    return True


# The envelope


def envelopes() -> list[bytes]:
    good = _MADE.files[_MADE.envelope_path]
    unsigned = make_envelope(_MADE.payload, [])
    doubly = make_envelope(_MADE.payload, [_SIGNING_KEY] * 2)
    many = make_envelope(_MADE.payload, [_SIGNING_KEY] * 17)
    return [good, unsigned, doubly, many]


def check_envelope(data: bytes) -> bool:
    try:
        envelope = parse_envelope(data, _MADE.seal_id)
    except DamagedError:
        return False
    assert is_canonical(data)
    payload = make_payload(envelope.clear_facts, envelope.manifest_message)
    assert encryptor.base64_text(payload) == json.loads(data)["payload"]
    assert len(envelope.signers) == len(json.loads(data)["signatures"])
    for signer in envelope.signers:
        assert PublicKey.from_blob(signer.blob) == signer
    if payload != _MADE.payload:
        assert _SIGNING_KEY.public not in envelope.signers, "a forgery"
    return True


def payloads() -> list[bytes]:
    facts, message = _MADE.clear_facts, _MADE.payload[-200:]
    short = make_payload(facts, message[:72])
    return [_MADE.payload, short, short[:-1], make_payload(b"{}", message), b"\0\0\0\1"]


def check_payload(data: bytes) -> bool:
    """Signed by somebody, so that it is parsed."""
    try:
        envelope = parse_envelope(make_envelope(data, [_SIGNING_KEY]), _MADE.seal_id)
    except DamagedError:
        return False
    assert make_payload(envelope.clear_facts, envelope.manifest_message) == data
    assert is_canonical(envelope.clear_facts)
    assert envelope.signers == (_SIGNING_KEY.public,)
    return True


# Clear facts and the manifest


def all_clear_facts() -> list[bytes]:
    facts: Json = json.loads(_MADE.clear_facts)
    changes: list[Json] = [{}, {"version": 2**53 - 1}, {"sealed_at": 2**33}]
    changes += [{"format": 2}, {"version": 0}, {"extra": None}]
    return [encryptor.canonical(facts | change) for change in changes]


def check_clear_facts(data: bytes) -> bool:
    try:
        facts = parse_clear_facts(data, _MADE.seal_id)
    except DamagedError:
        return False
    assert is_canonical(data)
    assert json.loads(data) == msgspec.to_builtins(facts)
    return True


def manifests() -> list[bytes]:
    changes: list[Json] = [
        {},
        {"previous": {"payload_sha256": "a" * 64, "seal_id": "b" * 32}},
        {"extensions": {"x": "1", "y.z": "é"}},
        {"extensions": {"x": "1"}, "critical": ["x"]},
        {"terms": _TERMS},
        {"files": [], "directories": []},
        {"name": "a@1"},
    ]
    return [encryptor.canonical(_MADE.manifest | change) for change in changes]


def check_manifest(data: bytes) -> bool:
    try:
        manifest = parse_manifest(data, _FACTS)
    except (DamagedError, NewerFormatError):
        return False
    assert is_canonical(data)
    assert json.loads(data) == json.loads(msgspec.json.encode(manifest))
    _check_rules(manifest)
    return True


def _check_rules(manifest: Manifest) -> None:
    """Assert the rules of docs/format.md that a mount relies on, written otherwise."""
    paths = [entry.path for entry in manifest.files]
    together = [*paths, *manifest.directories]
    assert len(set(together)) == len(together)
    for path in (*together, manifest.name):
        parts = path.encode().split(b"/")
        assert not {b"", b".", b".."} & set(parts)
        assert max(map(len, parts)) <= 255
        assert b"\0" not in path.encode()
    for path in together:
        parent = path.rpartition("/")[0]
        assert not parent or parent in manifest.directories
    assert paths == sorted(paths, key=str.encode)
    assert all(0 <= e.size <= e.padded_size <= 2**40 for e in manifest.files)
    assert len({e.object_id for e in manifest.files}) == len(paths)


# Whole models: programs that edit their files


class Models:
    """Two sealed models in a directory: one with a large file, one with small ones."""

    def __init__(self, directory: Path) -> None:
        identity = own_identity()
        self._identity = identity
        plain = Plain(files=_LARGE_FILES, padded={_LARGE: _LARGE_PADDED})
        self._large = encryptor.encrypt(plain, _SEED)
        self._small = _made()
        self._small.add_key_file(recipient_of(identity).canonical)
        self._large_at = self._large.write(directory / "large")
        self._small_at = self._small.write(directory / "small")
        self._written = dict(self._small.files)
        self._unlocker = make_unlocker([identity], [_SIGNING_KEY.public])
        self._fd = SealedModel.open(self._large_at / "seals" / self._large.seal_id)
        self._manifest = parse_manifest(
            encryptor.canonical(self._large.manifest),
            parse_clear_facts(self._large.clear_facts, self._large.seal_id),
        )

    def close(self) -> None:
        self._fd.close()

    # An object and its block list

    @property
    def _object_files(self) -> dict[str, bytes]:
        """The object's path sorts before that of the block list's."""
        path = self._large.object_path(_LARGE)
        blocks = self._large.path_of("blocks")
        return {"1": self._large.files[path], "2": self._large.files[blocks]}

    def object_programs(self) -> list[bytes]:
        def edit(file: int, action: int, offset: int, data: bytes = b"") -> bytes:
            return step(file, action, offset, data, files=2)

        return [
            *(honest := [b"\0", b"\0" + edit(0, 0, 0, b"\1"), b"\0" + edit(0, 1, 60)]),
            b"\0" + edit(0, 0, 65_700, b"x") + edit(1, 0, 32, b"y"),
            b"\0" + edit(1, 4, 32),
            *(b"\1" + program[1:] for program in honest),
            b"\1" + edit(0, 0, 16_500, b"z"),
            b"\1" + edit(0, 4, 16_400),
        ]

    def check_object(self, data: bytes) -> bool:
        """Read an edited object and block list; odd: signed by who has the model key.

        What comes out is always the true content: chunks have tags.
        """
        forged = bool(data[:1]) and data[0] % 2 == 1
        files = edited(self._object_files, data[1:])
        self._write_large(files["1"], files["2"])
        manifest = self._manifest
        if forged:
            (entry,) = manifest.files
            entries = encryptor.block_list(files["1"])
            changed = msgspec.structs.replace(
                entry, block_list_hash=encryptor.block_list_hash(files["1"], entries)
            )
            manifest = msgspec.structs.replace(manifest, files=(changed,))
            self._write_large(files["1"], entries)
        try:
            sealing = Sealing.in_directory(
                manifest,
                self._fd.fd,
                Secret(self._large.model_key),
                ScratchPool(),
            )
        except DamagedError:
            return False
        try:
            whole = _streamed(sealing)
            parts = _read_parts(sealing)
        finally:
            sealing.close()
        assert whole in (None, _LARGE_FILES[_LARGE])
        for (offset, size), part in parts.items():
            assert part in (None, _LARGE_FILES[_LARGE][offset : offset + size])
        if whole is not None:
            assert None not in parts.values()
        return whole is not None

    def _write_large(self, message: bytes, blocks: bytes) -> None:
        at = self._large_at
        (at / self._large.object_path(_LARGE)).write_bytes(message)
        (at / self._large.path_of("blocks")).write_bytes(blocks)

    # Everything

    def model_programs(self) -> list[bytes]:
        count = len(self._small.files)
        return [
            b"",
            *(step(n, 0, 30, b"0", files=count) for n in range(count)),
            *(step(n, 1, 40, b"", files=count) for n in range(count)),
            *(step(n, 5, 0, b"", files=count) for n in range(count)),
        ]

    def check_model(self, data: bytes) -> bool:
        """Open and read an edited sealed model: nothing but the truth, or an error."""
        files = edited(self._small.files, data)
        for path, content in files.items():
            if self._written[path] != content:
                (self._small_at / path).write_bytes(content)
                self._written[path] = content
        try:
            found = self._read()
        except (DamagedError, NewerFormatError, NoUsableKeyError, UntrustedError):
            return False
        assert found == _SMALL
        return True

    def _read(self) -> dict[str, bytes]:
        place = Place(self._small_at, "")
        with SealedModel.open(self._small_at) as model:
            sealing = self._unlocker.unlock(model, ScratchPool(), place=place).sealing
        try:
            return {
                entry.path: b"".join(map(bytes, sealing.stream_file(entry)))
                for entry in sealing.manifest.files
            }
        finally:
            sealing.close()


def _streamed(sealing: Sealing) -> bytes | None:
    (entry,) = sealing.manifest.files
    try:
        return b"".join(map(bytes, sealing.stream_file(entry)))
    except DamagedError:
        return None


def _read_parts(sealing: Sealing) -> dict[tuple[int, int], bytes | None]:
    """Read some ranges at random access; None where it is refused."""
    (entry,) = sealing.manifest.files
    parts: dict[tuple[int, int], bytes | None] = dict.fromkeys(_RANGES)
    try:
        reader = sealing.open_file(entry)
    except DamagedError:
        return parts
    try:
        for offset, size in _RANGES:
            buffer = memoryview(bytearray(b"?" * size))
            try:
                count = reader.read_into(offset, buffer)
            except DamagedError:
                released = size - min(size, max(0, entry.size - offset))
                assert bytes(buffer).strip(b"?") == bytes(size - released)
            else:
                parts[offset, size] = bytes(buffer[:count])
    finally:
        reader.close()
    return parts


@contextmanager
def models(directory: Path) -> Iterator[Models]:
    """Make the sealed models below a directory."""
    made = Models(directory)
    try:
        yield made
    finally:
        made.close()
