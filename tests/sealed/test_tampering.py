"""Somebody who writes the cipherdir: errors, never other bytes.

Each byte of each file is changed once or twice; files are cut, extended, swapped; and
somebody who knows the model key encrypts anew what he wants to be read.
"""

import json
import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ovfuse.errors import (
    DamagedError,
    NewerFormatError,
    NoUsableKeyError,
    OvfuseError,
    UntrustedError,
)
from ovfuse.keys import Unlocker
from ovfuse.sealed.wrapping import Identity
from tests.support import encryptor
from tests.support.encryptor import Plain, SealedFiles, encrypt
from tests.support.sealed import (
    entry_of,
    make_identity,
    make_unlocker,
    opened,
    outcome,
    pattern,
    read_at,
    signers_of,
    stream,
    wrapped,
    write_sealed,
)

BLOCK = 65536
TINY = Plain(files={"a": b"abc", "d/e": b""})
LARGE = Plain(files={"f": pattern(2 * BLOCK + 5), "g": pattern(2 * BLOCK + 5)[::-1]})
FLIPS = (0x01, 0x20)  # the second changes the case of letters


@pytest.fixture(scope="module")
def identity() -> Identity:
    return make_identity()


def overwrite(path: Path, data: bytes) -> None:
    """Write in place: ext4 flushes a file that is truncated and written again."""
    with path.open("r+b") as file:
        file.write(data)
        file.truncate()


class Victim:
    """A sealed model on disk that is changed and put right again."""

    def __init__(self, made: SealedFiles, directory: Path, identity: Identity) -> None:
        self.made = made
        self.directory = write_sealed(made, directory, identity)
        self.unlocker = make_unlocker([identity], signers_of(made))

    def outcome(self) -> dict[str, bytes] | OvfuseError:
        return outcome(self.directory, self.unlocker)

    def with_file(self, path: str, data: bytes) -> dict[str, bytes] | OvfuseError:
        """Return what reading gives while a file has other content."""
        overwrite(self.directory / path, data)
        try:
            return self.outcome()
        finally:
            overwrite(self.directory / path, self.made.files[path])

    def flipped(
        self, path: str
    ) -> Iterator[tuple[int, dict[str, bytes] | OvfuseError]]:
        data = self.made.files[path]
        for position in range(len(data)):
            for mask in FLIPS:
                changed = bytearray(data)
                changed[position] ^= mask
                yield position, self.with_file(path, bytes(changed))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory, identity: Identity) -> Victim:
    made = encrypt(TINY, "tampering")
    return Victim(made, tmp_path_factory.mktemp("tiny"), identity)


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory, identity: Identity) -> Victim:
    made = encrypt(LARGE, "tampering")
    return Victim(made, tmp_path_factory.mktemp("large"), identity)


PARTS: dict[str, Callable[[SealedFiles], str]] = {
    "pointer": lambda made: "model.ovfuse",
    "envelope": lambda made: made.envelope_path,
    "blocks": lambda made: made.path_of("blocks"),
    "object": lambda made: made.object_path("a"),
    "empty object": lambda made: made.object_path("d/e"),
    "key file": lambda made: next(p for p in made.files if p.endswith(".age")),
}
EXPECTED: dict[str, tuple[type[OvfuseError], ...]] = {
    "pointer": (DamagedError, NewerFormatError),
    "key file": (NoUsableKeyError,),
}


def test_untouched_model_is_read(tiny: Victim, large: Victim) -> None:
    assert tiny.outcome() == TINY.files
    assert large.outcome() == LARGE.files


@pytest.mark.parametrize("part", PARTS)
def test_no_byte_can_be_changed(tiny: Victim, part: str) -> None:
    expected = EXPECTED.get(part, (DamagedError,))
    wrong = [
        (position, found)
        for position, found in tiny.flipped(PARTS[part](tiny.made))
        if type(found) not in expected
    ]

    assert wrong == []


@pytest.mark.parametrize("part", PARTS)
def test_no_byte_can_be_cut_off(tiny: Victim, part: str) -> None:
    path = PARTS[part](tiny.made)
    data = tiny.made.files[path]
    expected = EXPECTED.get(part, (DamagedError,))
    wrong = [
        (size, found)
        for size in {0, 1, len(data) // 2, len(data) - 2, len(data) - 1}
        if type(found := tiny.with_file(path, data[:size])) not in expected
    ]

    assert wrong == []


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("tail", [b"\0", b"\n", b"x" * 32], ids=["zero", "line", "32"])
def test_no_byte_can_be_added(tiny: Victim, part: str, tail: bytes) -> None:
    path = PARTS[part](tiny.made)
    found = tiny.with_file(path, tiny.made.files[path] + tail)

    assert isinstance(found, EXPECTED.get(part, (DamagedError,)))


EDGES = (24, 56, 56 + 16, 56 + 16400, 56 + 65600, 56 + 2 * 65600)
LENGTH = 56 + 2 * BLOCK + 5 + 9 * 16


@pytest.mark.parametrize(
    "size", [0, LENGTH - 1, LENGTH + 1, *(e + d for e in EDGES for d in (-1, 0, 1))]
)
def test_object_cut_at_a_boundary(large: Victim, size: int) -> None:
    path = large.made.object_path("f")
    data = large.made.files[path]

    assert len(data) == LENGTH
    found = large.with_file(path, data[:size].ljust(size, b"\0"))
    assert isinstance(found, DamagedError)


@pytest.mark.parametrize("tail", [1, 16, 32, 16400, 65600])
def test_object_that_is_longer(large: Victim, tail: int) -> None:
    path = large.made.object_path("f")
    data = large.made.files[path]

    assert isinstance(large.with_file(path, data + data[-tail:]), DamagedError)


@pytest.mark.parametrize("size", [0, 31, 32, 33, 95, 96, 97, 191, 193, 224])
def test_block_lists_of_another_size(large: Victim, size: int) -> None:
    path = large.made.path_of("blocks")
    data = large.made.files[path].ljust(size, b"\0")[:size]

    assert isinstance(large.with_file(path, data), DamagedError)


def move(data: bytes, first: int, second: int, size: int, start: int = 0) -> bytes:
    """Swap two pieces."""
    a, b = (slice(start + size * n, start + size * (n + 1)) for n in (first, second))
    changed = bytearray(data)
    changed[a], changed[b] = data[b], data[a]
    return bytes(changed)


@pytest.mark.parametrize(
    ("part", "edit"),
    [
        ("object", lambda d: move(d, 0, 1, 16400, 56)),  # chunks of one block
        ("object", lambda d: move(d, 0, 4, 16400, 56)),  # of two blocks
        ("object", lambda d: move(d, 0, 1, 65600, 56)),  # blocks
        ("blocks", lambda d: move(d, 0, 1, 32)),  # entries of one list
        ("blocks", lambda d: move(d, 0, 1, 96)),  # lists
        ("blocks", lambda d: d[96:] + d[:96]),
    ],
    ids=["chunks", "chunks of blocks", "blocks", "entries", "lists", "order"],
)
def test_pieces_that_are_swapped(
    large: Victim, part: str, edit: Callable[[bytes], bytes]
) -> None:
    path = (
        large.made.path_of("blocks")
        if part == "blocks"
        else large.made.object_path("f")
    )
    data = large.made.files[path]
    changed = edit(data)

    assert (len(changed), changed != data) == (len(data), True)
    assert isinstance(large.with_file(path, changed), DamagedError)


def test_objects_that_are_swapped(large: Victim) -> None:
    of_g = large.made.files[large.made.object_path("g")]

    found = large.with_file(large.made.object_path("f"), of_g)
    assert isinstance(found, DamagedError)


def swap(directory: Path, a: str, b: str) -> None:
    (directory / a).rename(directory / "x")
    (directory / b).rename(directory / a)
    (directory / "x").rename(directory / b)


def test_objects_and_lists_that_are_swapped(tmp_path: Path, identity: Identity) -> None:
    victim = Victim(encrypt(LARGE, "tampering"), tmp_path, identity)
    made = victim.made
    lists = made.files[made.path_of("blocks")]
    swap(tmp_path, made.object_path("f"), made.object_path("g"))
    in_order = [e["path"] for e in made.manifest["files"]]
    assert in_order == ["f", "g"]
    (tmp_path / made.path_of("blocks")).write_bytes(lists[96:] + lists[:96])

    assert isinstance(victim.outcome(), DamagedError)


# Another sealing of the same publisher, for the same recipient, of the same files.


@pytest.fixture
def two(tmp_path: Path, identity: Identity) -> tuple[Victim, Victim]:
    """Two sealings in one directory; the pointer is that of the second."""
    made = [
        encrypt(Plain(files={"a": content}), seed)
        for content, seed in ((b"old", "tampering, old"), (b"new", "tampering, new"))
    ]
    old, new = (Victim(m, tmp_path, identity) for m in made)
    new.unlocker = make_unlocker(
        [identity], [*signers_of(old.made), *signers_of(new.made)]
    )
    return old, new


def copy_part(old: Victim, new: Victim, name: str) -> None:
    data = old.made.files[old.made.path_of(name)]
    (new.directory / new.made.path_of(name)).write_bytes(data)


def test_object_of_another_sealing(two: tuple[Victim, Victim]) -> None:
    old, new = two
    data = old.made.files[old.made.object_path("a")]

    assert isinstance(new.with_file(new.made.object_path("a"), data), DamagedError)


@pytest.mark.parametrize("name", ["manifest.dsse.json", "blocks"])
def test_file_of_another_sealing(two: tuple[Victim, Victim], name: str) -> None:
    old, new = two
    copy_part(old, new, name)

    assert isinstance(new.outcome(), DamagedError)


def test_sealing_under_the_id_of_another(two: tuple[Victim, Victim]) -> None:
    old, new = two
    swap(new.directory, f"seals/{old.made.seal_id}", f"seals/{new.made.seal_id}")

    assert isinstance(new.outcome(), DamagedError)


def test_keys_of_another_sealing(two: tuple[Victim, Victim]) -> None:
    old, new = two
    swap(new.directory, old.made.path_of("keys"), new.made.path_of("keys"))

    assert isinstance(new.outcome(), NoUsableKeyError)


def test_key_file_with_another_key_is_skipped(
    two: tuple[Victim, Victim], identity: Identity
) -> None:
    old, new = two
    for name in ("00" * 16, "ff" * 16):
        (new.directory / new.made.path_of(f"keys/{name}.age")).write_bytes(
            wrapped(old.made.model_key, identity)
        )

    assert new.outcome() == {"a": b"new"}


def test_payload_signed_by_somebody_else(tiny: Victim) -> None:
    stranger = encryptor.signing_key(encryptor.Randomness("stranger"), 0)
    envelope = encryptor.sign(tiny.made.payload, [stranger])

    found = tiny.with_file(tiny.made.envelope_path, encryptor.canonical(envelope))
    assert isinstance(found, UntrustedError)


def test_signature_taken_off(tiny: Victim) -> None:
    envelope = encryptor.sign(tiny.made.payload, [])

    found = tiny.with_file(tiny.made.envelope_path, encryptor.canonical(envelope))
    assert isinstance(found, UntrustedError)


def test_signature_that_fails_beside_a_good_one(tiny: Victim) -> None:
    envelope = json.loads(tiny.made.files[tiny.made.envelope_path])
    stranger = encryptor.signing_key(encryptor.Randomness("stranger"), 0)
    envelope["signatures"] += encryptor.sign(b"other", [stranger])["signatures"]

    found = tiny.with_file(tiny.made.envelope_path, encryptor.canonical(envelope))
    assert isinstance(found, DamagedError)


def test_more_signers_do_no_harm(tiny: Victim) -> None:
    stranger = encryptor.signing_key(encryptor.Randomness("stranger"), 0)
    keys = [stranger, *tiny.made.signing_keys]
    envelope = encryptor.sign(tiny.made.payload, keys)

    found = tiny.with_file(tiny.made.envelope_path, encryptor.canonical(envelope))
    assert found == TINY.files


@pytest.mark.parametrize(
    "missing", ["model.ovfuse", "manifest.dsse.json", "blocks", "object"]
)
def test_missing_file(tmp_path: Path, identity: Identity, missing: str) -> None:
    victim = Victim(encrypt(TINY, "tampering"), tmp_path, identity)
    path = {
        "model.ovfuse": "model.ovfuse",
        "object": victim.made.object_path("a"),
    }.get(missing, victim.made.path_of(missing))
    (tmp_path / path).unlink()

    assert isinstance(victim.outcome(), DamagedError)


def test_what_nobody_asks_for_does_no_harm(tmp_path: Path, identity: Identity) -> None:
    victim = Victim(encrypt(TINY, "tampering"), tmp_path, identity)
    for name in ("objects/x", "keys/README", "keys/X.age", "x", "objects/" + "00" * 16):
        (tmp_path / victim.made.path_of(name)).write_bytes(b"x")
    (tmp_path / "x").symlink_to("/etc/passwd")

    assert victim.outcome() == TINY.files


# Somebody who opens the model and writes the cipherdir: a recipient, say.


def forge(made: SealedFiles, path: str, content: bytes, *, same_salt: bool) -> bytes:
    """Return a valid object with other content, of the same size."""
    (entry,) = (e for e in made.manifest["files"] if e["path"] == path)
    original = made.files[made.object_path(path)]
    salt = original[:24] if same_salt else b"another salt of 24 bytes"
    context = encryptor.object_context(made.seal_id, entry["object_id"])
    forged = encryptor.encrypt_message(made.model_key, salt, context, content)
    assert len(forged) == len(original)
    assert (forged[:56] == original[:56]) == same_salt
    return forged


def test_forged_object_is_a_valid_message(large: Victim) -> None:
    forged = forge(large.made, "f", LARGE.files["g"], same_salt=True)
    (entry,) = (e for e in large.made.manifest["files"] if e["path"] == "f")
    context = encryptor.object_context(large.made.seal_id, entry["object_id"])

    found = encryptor.decrypt_message(large.made.model_key, context, forged)
    assert found == LARGE.files["g"]


@pytest.fixture(params=["same salt", "other salt", "own list", "same salt, own list"])
def forged(
    request: pytest.FixtureRequest, tmp_path: Path, identity: Identity
) -> Victim:
    made = encrypt(LARGE, "tampering")
    victim = Victim(made, tmp_path, identity)
    same_salt = request.param.startswith("same")
    data = forge(made, "f", LARGE.files["g"], same_salt=same_salt)
    (tmp_path / made.object_path("f")).write_bytes(data)
    if "own list" in request.param:
        blocks = tmp_path / made.path_of("blocks")
        lists = blocks.read_bytes()
        own = encryptor.block_list(data)
        blocks.write_bytes(own + lists[len(own) :])
    return victim


def test_forged_object_is_never_streamed(forged: Victim, identity: Identity) -> None:
    with opened(forged.directory, identity) as sealing:
        with pytest.raises(DamagedError):
            stream(sealing, entry_of(sealing, "f"))
        with pytest.raises(DamagedError):
            sealing.verify_file(entry_of(sealing, "f"), lambda _: None)
        assert stream(sealing, entry_of(sealing, "g")) == LARGE.files["g"]


def test_nothing_of_a_forged_object_is_released(
    forged: Victim, identity: Identity
) -> None:
    """The hash of the whole file would come too late."""
    with opened(forged.directory, identity) as sealing:
        pieces = sealing.stream_file(entry_of(sealing, "f"))
        with pytest.raises(DamagedError):
            next(pieces)


def test_forged_object_is_never_read_at_any_offset(
    forged: Victim, identity: Identity
) -> None:
    size = len(LARGE.files["f"])
    chosen = random.Random(1)
    offsets = [0, 16384, BLOCK - 1, BLOCK, 2 * BLOCK, size - 1]
    offsets += [chosen.randrange(size) for _ in range(30)]

    with opened(forged.directory, identity) as sealing:
        entry = entry_of(sealing, "f")
        for offset in offsets:
            with pytest.raises(DamagedError):
                read_at(sealing, entry, offset, 1 + offset % 1000)


@pytest.mark.parametrize("check_hash", [True, False])
def test_forged_object_is_never_read_whole(
    forged: Victim, identity: Identity, check_hash: bool
) -> None:
    target = bytearray(len(LARGE.files["f"]))
    with opened(forged.directory, identity) as sealing:
        entry = entry_of(sealing, "f")
        with pytest.raises(DamagedError):
            sealing.read_file_into(
                entry, memoryview(target), workers=2, check_hash=check_hash
            )

    assert not any(target)


def test_one_forged_block_does_not_spoil_the_others(
    tmp_path: Path, identity: Identity
) -> None:
    victim = Victim(encrypt(LARGE, "tampering"), tmp_path, identity)
    content = LARGE.files["f"]
    other = content[:BLOCK] + content[:BLOCK] + content[2 * BLOCK :]
    data = forge(victim.made, "f", other, same_salt=True)
    (tmp_path / victim.made.object_path("f")).write_bytes(data)

    with opened(tmp_path, identity) as sealing:
        entry = entry_of(sealing, "f")
        assert read_at(sealing, entry, 0, BLOCK) == content[:BLOCK]
        assert read_at(sealing, entry, 2 * BLOCK, 5) == content[-5:]
        with pytest.raises(DamagedError):
            read_at(sealing, entry, BLOCK, 1)


def test_forged_manifest_is_not_trusted(tmp_path: Path, identity: Identity) -> None:
    """He can make a whole sealing of his own, and sign it as himself."""
    victim = Victim(encrypt(TINY, "tampering"), tmp_path, identity)
    own = encrypt(Plain(files={"a": b"evil"}), "recipient")
    write_sealed(own, tmp_path, identity)

    assert isinstance(victim.outcome(), UntrustedError)


def test_object_changed_while_it_is_open(tmp_path: Path, identity: Identity) -> None:
    victim = Victim(encrypt(LARGE, "tampering"), tmp_path, identity)
    path = tmp_path / victim.made.object_path("f")
    buffer = bytearray(100)

    with opened(tmp_path, identity) as sealing:
        reader = sealing.open_file(entry_of(sealing, "f"))
        reader.read_into(0, memoryview(buffer))
        path.write_bytes(forge(victim.made, "f", LARGE.files["g"], same_salt=True))
        with pytest.raises(DamagedError):
            reader.read_into(0, memoryview(buffer))
        os.truncate(path, 100)
        with pytest.raises(DamagedError):
            reader.read_into(BLOCK, memoryview(buffer))
        reader.close()


def test_list_is_not_read_again(tmp_path: Path, identity: Identity) -> None:
    victim = Victim(encrypt(LARGE, "tampering"), tmp_path, identity)
    data = forge(victim.made, "f", LARGE.files["g"], same_salt=True)
    buffer = bytearray(100)

    with opened(tmp_path, identity) as sealing:
        reader = sealing.open_file(entry_of(sealing, "f"))
        (tmp_path / victim.made.object_path("f")).write_bytes(data)
        lists = encryptor.block_list(data) * 2
        (tmp_path / victim.made.path_of("blocks")).write_bytes(lists)
        with pytest.raises(DamagedError):
            reader.read_into(BLOCK, memoryview(buffer))
        reader.close()


def test_nothing_of_keys_is_read_before_trust(
    tmp_path: Path, identity: Identity
) -> None:
    made = encrypt(TINY, "tampering")
    write_sealed(made, tmp_path, identity)
    keys = tmp_path / made.path_of("keys")
    keys.rename(tmp_path / "keys")
    keys.write_bytes(b"no directory")
    nobody = make_unlocker([identity], [])

    assert isinstance(outcome(tmp_path, nobody), UntrustedError)
    trusting = make_unlocker([identity], [], allow_untrusted=True)
    assert isinstance(outcome(tmp_path, trusting), DamagedError)


def test_allow_untrusted_waives_trust_alone(tmp_path: Path, identity: Identity) -> None:
    victim = Victim(encrypt(LARGE, "tampering"), tmp_path, identity)
    trusting: Unlocker = make_unlocker([identity], [], allow_untrusted=True)
    assert outcome(tmp_path, trusting) == LARGE.files

    data = forge(victim.made, "f", LARGE.files["g"], same_salt=True)
    (tmp_path / victim.made.object_path("f")).write_bytes(data)
    assert isinstance(outcome(tmp_path, trusting), DamagedError)
