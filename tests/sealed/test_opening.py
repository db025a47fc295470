"""Opening a sealed model: which key, which sealing, and what came before."""

import hashlib
import logging
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from ovfuse.errors import CipherdirError, DamagedError, NoUsableKeyError
from ovfuse.sealed.opening import LockedSealing, SealedModel, inherit_sealing
from ovfuse.sealed.reader import ScratchPool
from ovfuse.sealed.sealing import SealingFiles
from ovfuse.sealed.wrapping import Identity
from ovfuse.secret import Secret
from tests.support import encryptor
from tests.support.encryptor import Plain, SealedFiles, encrypt
from tests.support.sealed import (
    entry_of,
    make_identity,
    opened,
    recipient_of,
    stream,
    wrapped,
    write_sealed,
)


@pytest.fixture(scope="module")
def identity() -> Identity:
    return make_identity()


def make(
    seed: str, *, version: int = 1, previous: SealedFiles | None = None
) -> SealedFiles:
    content = {"a": seed.encode()}
    reference = None
    if previous is not None:
        reference = {
            "payload_sha256": hashlib.sha256(previous.payload).hexdigest(),
            "seal_id": previous.seal_id,
        }
    return encrypt(Plain(files=content, version=version, previous=reference), seed)


def point_to(directory: Path, made: SealedFiles) -> None:
    (directory / "model.ovfuse").write_bytes(made.files["model.ovfuse"])


def key_count(directory: Path) -> int:
    with SealedModel.open(directory) as model, model.current() as locked:
        return len(list(locked.key_files()))


def test_key_of_any_recipient_is_found(tmp_path: Path, identity: Identity) -> None:
    made = make("one")
    for _ in range(5):
        made.add_key_file(recipient_of(make_identity()).canonical)
    write_sealed(made, tmp_path, identity)

    assert key_count(tmp_path) == 6
    with opened(tmp_path, identity) as sealing:
        assert stream(sealing, entry_of(sealing, "a")) == b"one"


def test_no_key_is_for_us(tmp_path: Path, identity: Identity) -> None:
    write_sealed(make("one"), tmp_path, make_identity())

    with pytest.raises(NoUsableKeyError):
        opened(tmp_path, identity).__enter__()


def test_no_key_at_all(tmp_path: Path, identity: Identity) -> None:
    make("one").write(tmp_path)

    assert key_count(tmp_path) == 0
    with pytest.raises(NoUsableKeyError):
        opened(tmp_path, identity).__enter__()


def test_1024_entries_in_keys_are_allowed_and_one_more_is_not(
    tmp_path: Path, identity: Identity
) -> None:
    made = make("one")
    write_sealed(made, tmp_path, identity)
    keys = tmp_path / made.path_of("keys")
    for number in range(1023):
        (keys / f"{number}").touch()
    with opened(tmp_path, identity) as sealing:
        assert sealing.manifest.name == "model"

    (keys / "one more").touch()
    with pytest.raises(DamagedError, match="more than 1024 key files"):
        opened(tmp_path, identity).__enter__()


def unusable(name: str) -> Callable[[Path], object]:
    age = wrapped(bytes(32), make_identity())
    scrypt = b"age-encryption.org/v1\n-> scrypt AAAA 21\nBBBB\n--- mac\n"
    return {
        "too large": lambda path: path.write_bytes(age + bytes(65537 - len(age))),
        "no age file": lambda path: path.write_bytes(b"x"),
        "empty": lambda path: path.touch(),
        "work factor": lambda path: path.write_bytes(scrypt),
        "link": lambda path: path.symlink_to("/dev/zero"),
        "FIFO": os.mkfifo,
        "directory": lambda path: path.mkdir(),
    }[name]


@pytest.mark.parametrize(
    "name",
    ["too large", "no age file", "empty", "work factor", "link", "FIFO", "directory"],
)
def test_unusable_key_file_is_skipped_with_a_word(
    tmp_path: Path, identity: Identity, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    made = make("one")
    write_sealed(made, tmp_path, identity)
    unusable(name)(tmp_path / made.path_of(f"keys/{'0' * 32}.age"))
    with opened(tmp_path, identity) as sealing:
        assert sealing.manifest.name == "model"

    ((_, level, message),) = caplog.record_tuples
    assert level == logging.WARNING
    assert message.startswith(f"skipped '{'0' * 32}.age': ")


@pytest.mark.parametrize("size", [65536, 65537])
def test_size_of_a_key_file(tmp_path: Path, size: int) -> None:
    made = make("one")
    data = wrapped(made.model_key, make_identity())
    made.files[made.path_of(f"keys/{'0' * 32}.age")] = data.ljust(size, b"\0")
    made.write(tmp_path)

    assert key_count(tmp_path) == (size == 65536)


@pytest.mark.parametrize(
    "name",
    [
        "0" * 32,
        "0" * 31 + ".age",
        "0" * 33 + ".age",
        "A" * 32 + ".age",
        "g" * 32 + ".age",
        "0" * 32 + ".AGE",
        "0" * 32 + ".age.age",
        "." + "0" * 32 + ".age",
        ".age",
        "passphrase.age",
    ],
)
def test_other_names_in_keys_are_ignored(
    tmp_path: Path, identity: Identity, name: str
) -> None:
    made = make("one")
    made.files[made.path_of(f"keys/{name}")] = wrapped(made.model_key, identity)
    made.write(tmp_path)

    assert key_count(tmp_path) == 0


def test_key_files_are_tried_in_the_order_of_their_names(tmp_path: Path) -> None:
    made = make("one")
    contents = []
    for digit in "8f03":
        data = wrapped(made.model_key, make_identity())
        made.files[made.path_of(f"keys/{digit * 32}.age")] = data
        contents.append((digit, data))
    made.write(tmp_path)

    with SealedModel.open(tmp_path) as model, model.current() as locked:
        found = [data for _, data in locked.key_files()]
    assert found == [data for _, data in sorted(contents)]


def test_sealing_goes_on_when_the_rest_is_closed(
    tmp_path: Path, identity: Identity
) -> None:
    write_sealed(make("one"), tmp_path, identity)
    model = SealedModel.open(tmp_path)
    locked = model.current()
    sealing = locked.unlock([identity], ScratchPool())
    for _ in range(2):  # closing again does nothing
        locked.close()
        model.close()

    assert stream(sealing, entry_of(sealing, "a")) == b"one"
    sealing.close()
    sealing.close()


def test_object_is_found_after_the_directory_was_moved(
    tmp_path: Path, identity: Identity
) -> None:
    write_sealed(make("one"), tmp_path / "x", identity)

    with opened(tmp_path / "x", identity) as sealing:
        (tmp_path / "x").rename(tmp_path / "y")
        assert stream(sealing, entry_of(sealing, "a")) == b"one"


def test_any_sealing_can_be_opened_by_its_id(
    tmp_path: Path, identity: Identity
) -> None:
    old, new = make("old"), make("new")
    write_sealed(old, tmp_path, identity)
    write_sealed(new, tmp_path, identity)

    with SealedModel.open(tmp_path) as model:
        assert model.pointer() == new.seal_id
        with model.sealing(old.seal_id) as locked:
            assert locked.envelope.facts.seal_id == old.seal_id


class Switching(SealedModel):
    """A sealed model whose writer switches between the reader's two steps."""

    plan: list[SealedFiles]
    directory: Path

    def sealing(self, seal_id: str) -> LockedSealing:
        if self.plan:
            point_to(self.directory, self.plan.pop(0))
        return super().sealing(seal_id)


def open_switching(directory: Path, plan: list[SealedFiles]) -> Switching:
    model = Switching.open(directory)
    model.directory, model.plan = directory, plan
    return model


def test_reader_follows_a_writer_who_cleans_up(
    tmp_path: Path, identity: Identity
) -> None:
    gone, now = make("gone"), make("now")
    write_sealed(now, tmp_path, identity)
    point_to(tmp_path, gone)

    with open_switching(tmp_path, [now]) as model, model.current() as locked:
        assert locked.envelope.facts.seal_id == now.seal_id


def test_reader_gives_up_when_it_never_ends(tmp_path: Path, identity: Identity) -> None:
    write_sealed(make("now"), tmp_path, identity)
    gone = [make("gone"), make("gone too")] * 11
    point_to(tmp_path, gone[-1])

    with (
        open_switching(tmp_path, gone) as model,
        pytest.raises(CipherdirError, match="replaced faster"),
    ):
        model.current()


def test_damage_is_not_waited_for(tmp_path: Path, identity: Identity) -> None:
    made = make("one")
    write_sealed(made, tmp_path, identity)
    (tmp_path / made.envelope_path).write_bytes(b"{}")

    with (
        SealedModel.open(tmp_path) as model,
        pytest.raises(DamagedError, match="envelope"),
    ):
        model.current()


# The sealing before


def finding(directory: Path, identity: Identity) -> str | None:
    with opened(directory, identity) as sealing, SealedModel.open(directory) as model:
        return model.previous_finding(sealing.manifest)


@pytest.fixture
def two(tmp_path: Path, identity: Identity) -> tuple[SealedFiles, SealedFiles]:
    old = make("old")
    new = make("new", version=2, previous=old)
    write_sealed(old, tmp_path, identity)
    write_sealed(new, tmp_path, identity)
    return old, new


def test_no_finding_about_a_first_sealing(tmp_path: Path, identity: Identity) -> None:
    write_sealed(make("one"), tmp_path, identity)

    assert finding(tmp_path, identity) is None


def test_no_finding_about_the_right_predecessor(
    tmp_path: Path, identity: Identity, two: tuple[SealedFiles, SealedFiles]
) -> None:
    assert finding(tmp_path, identity) is None


@pytest.mark.parametrize("what", ["sealing", "envelope"])
def test_no_finding_about_one_that_is_not_kept(
    tmp_path: Path, identity: Identity, two: tuple[SealedFiles, SealedFiles], what: str
) -> None:
    old, _ = two
    if what == "sealing":
        (tmp_path / f"seals/{old.seal_id}").rename(tmp_path / "elsewhere")
    else:
        (tmp_path / old.envelope_path).unlink()

    assert finding(tmp_path, identity) is None


def test_finding_about_another_predecessor(
    tmp_path: Path, identity: Identity, two: tuple[SealedFiles, SealedFiles]
) -> None:
    old, _ = two
    payload = encryptor.join_payload(old.clear_facts, b"another message" * 10)
    envelope = encryptor.sign(payload, old.signing_keys)
    (tmp_path / old.envelope_path).write_bytes(encryptor.canonical(envelope))

    expected = "the sealing before this one is not the one that its successor names"
    assert finding(tmp_path, identity) == expected


def test_finding_about_a_damaged_predecessor(
    tmp_path: Path, identity: Identity, two: tuple[SealedFiles, SealedFiles]
) -> None:
    old, _ = two
    (tmp_path / old.envelope_path).write_bytes(b"")

    expected = "the sealing before this one: the envelope is malformed"
    assert finding(tmp_path, identity) == expected


def test_finding_about_a_predecessor_that_cannot_be_read(
    tmp_path: Path,
    identity: Identity,
    two: tuple[SealedFiles, SealedFiles],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*_: object) -> LockedSealing:
        raise CipherdirError("the envelope cannot be read: Permission denied")

    with opened(tmp_path, identity) as sealing, SealedModel.open(tmp_path) as model:
        monkeypatch.setattr(SealedModel, "sealing", refuse)
        found = model.previous_finding(sealing.manifest)

    assert found is not None
    assert found.endswith("Permission denied")


# In the stead of a process that was killed


def inherited(
    directory: Path, identity: Identity, change: Callable[[], object]
) -> bytes:
    """Read a file from what another process left; `change` comes in between."""
    with opened(directory, identity) as sealing:
        facts = sealing.manifest.facts
        with SealedModel.open(directory) as model, model.current() as locked:
            payload_sha256 = locked.envelope.payload_sha256
        files = SealingFiles(*map(os.dup, sealing.files))
        key = Secret(sealing.model_key.view)
    change()
    try:
        envelope, again = inherit_sealing(
            facts.seal_id, payload_sha256, files, lambda _: key, ScratchPool()
        )
    except BaseException:
        files.close()
        raise
    assert envelope.payload_sha256 == payload_sha256
    try:
        return stream(again, entry_of(again, "a"))
    finally:
        again.close()


def test_sealing_is_inherited_though_its_directory_is_gone(
    tmp_path: Path, identity: Identity
) -> None:
    made = make("one")
    write_sealed(made, tmp_path, identity)
    seals = tmp_path / "seals"

    assert inherited(tmp_path, identity, lambda: None) == b"one"
    moved = tmp_path.with_name("moved")
    assert inherited(tmp_path, identity, lambda: seals.rename(moved)) == b"one"


def test_envelope_that_was_exchanged_is_not_inherited(
    tmp_path: Path, identity: Identity
) -> None:
    """By somebody who knows the model key: it is of the same sealing, and whole."""
    made = make("one")
    write_sealed(made, tmp_path, identity)
    other = encrypt(Plain(files={"a": b"two"}), "one")
    name = f"seals/{made.seal_id}/manifest.dsse.json"
    assert other.seal_id == made.seal_id
    assert other.files[name] != made.files[name]

    with pytest.raises(DamagedError, match="another one than was verified"):
        inherited(
            tmp_path,
            identity,
            lambda: (tmp_path / name).write_bytes(other.files[name]),
        )
