"""What must not stay in memory, in messages, or half done on disk."""

import errno
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

from ovfuse.errors import CipherdirError, DamagedError, SourceError, describe
from ovfuse.sealed import sealer
from ovfuse.sealed.opening import SealedModel
from ovfuse.sealed.reader import ScratchPool, read_fully
from ovfuse.sealed.source import scan
from ovfuse.sealed.wrapping import Identity
from ovfuse.sealed.writer import ObjectWriter
from ovfuse.secret import Secret
from ovfuse.view.tree import open_view
from tests.hostile.published import (
    make_published,
    permissive,
    publish,
    write,
)
from tests.support import encryptor
from tests.support.encryptor import Edits, Plain, SealedFiles
from tests.support.sealed import (
    Publisher,
    entry_of,
    opened,
    pattern,
    read_at,
    recipient_of,
    wrapped,
    write_files,
)

MARKER = b"plaintext that must not stay"


@pytest.fixture
def made(identity: Identity) -> SealedFiles:
    made = publish(Plain(files={"a": MARKER, "b": pattern(200_000)}), "traces")
    made.add_key_file(recipient_of(identity).canonical)
    return made


@pytest.fixture
def secrets(monkeypatch: pytest.MonkeyPatch) -> list[Secret]:
    """Every secret that is made meanwhile."""
    found: list[Secret] = []
    initialise = Secret.__init__

    def remember(self: Secret, value: bytes) -> None:
        initialise(self, value)
        found.append(self)

    monkeypatch.setattr(Secret, "__init__", remember)
    return found


def is_wiped(secret: Secret) -> bool:
    return bytes(secret.view) == bytes(len(secret))


# Keys


def test_secret_is_wiped_and_does_not_show_itself() -> None:
    secret = Secret(b"a very secret key")
    assert "secret key" not in f"{secret!r} {secret}"
    assert b"secret".hex() not in f"{secret!r}"
    with pytest.raises(TypeError, match="pickled"):
        pickle.dumps(secret)

    with secret:
        assert bytes(secret.view) == b"a very secret key"
    assert is_wiped(secret)


def test_key_is_wiped_when_the_sealing_is_closed(
    tmp_path: Path, made: SealedFiles, identity: Identity, secrets: list[Secret]
) -> None:
    with opened(write(made.files, tmp_path), identity) as sealing:
        assert bytes(sealing.model_key.view) == made.model_key
    assert len(secrets) == 1
    assert all(map(is_wiped, secrets))


@pytest.mark.parametrize("broken", ["blocks", "objects", "manifest"])
def test_key_is_wiped_when_the_sealing_does_not_open(
    tmp_path: Path, identity: Identity, secrets: list[Secret], broken: str
) -> None:
    edits = Edits(manifest=lambda m: m.update(name="..") if broken == "manifest" else 0)
    made = publish(Plain(files={"a": b""}), "traces", edits)
    made.add_key_file(recipient_of(identity).canonical)
    write(made.files, tmp_path)
    if broken != "manifest":
        (tmp_path / made.path_of(broken)).rename(tmp_path / "elsewhere")
    with (
        SealedModel.open(tmp_path) as model,
        model.current() as locked,
        pytest.raises(DamagedError),
    ):
        locked.unlock([identity], ScratchPool())

    assert len(secrets) == 1
    assert all(map(is_wiped, secrets))


def test_candidates_that_do_not_fit_are_wiped(
    tmp_path: Path, made: SealedFiles, identity: Identity, secrets: list[Secret]
) -> None:
    for number in range(3):
        path = made.path_of(f"keys/{number:032x}.age")
        made.files[path] = wrapped(bytes([number + 1]) * 32, identity)
    write(made.files, tmp_path)
    secrets.clear()
    with opened(tmp_path, identity):
        live = [secret for secret in secrets if not is_wiped(secret)]
        assert [bytes(secret.view) for secret in live] == [made.model_key]


def test_keys_are_wiped_when_a_view_is_closed(
    tmp_path: Path, identity: Identity, secrets: list[Secret]
) -> None:
    published = make_published().for_recipient(recipient_of(identity).canonical)
    for place in ("a/model", "b/model"):
        write(published.new.files, tmp_path / place)
    secrets.clear()
    view = open_view(tmp_path, permissive(identity, published), strict=True)
    assert len(secrets) == 2
    assert not any(map(is_wiped, secrets))

    view.close()
    assert all(map(is_wiped, secrets))


def test_key_of_a_new_sealing_is_wiped(tmp_path: Path, secrets: list[Secret]) -> None:
    publisher = Publisher.make()
    publisher.seal(write_files(tmp_path / "plain"), tmp_path / "sealed")

    assert len(secrets) == 1
    assert all(map(is_wiped, secrets))


# Plaintext


def test_writer_leaves_no_plaintext(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writers = []

    class Remembered(ObjectWriter):
        def __init__(self, model_key: memoryview) -> None:
            super().__init__(model_key)
            writers.append(self)

    monkeypatch.setattr(sealer, "ObjectWriter", Remembered)
    source = write_files(tmp_path / "plain", {"a": MARKER})
    Publisher.make().seal(source, tmp_path / "sealed")

    (writer,) = writers
    assert MARKER not in bytes(writer._plaintext)


@pytest.mark.parametrize("end", ["whole", "in the middle"])
def test_stream_leaves_no_plaintext(
    tmp_path: Path, made: SealedFiles, identity: Identity, end: str
) -> None:
    with opened(write(made.files, tmp_path), identity) as sealing:
        pieces = sealing.stream_file(entry_of(sealing, "b"))
        piece = next(pieces)
        kept = piece.obj
        assert bytes(piece[:100]) == pattern(100)
        if end == "whole":
            for _ in pieces:
                pass
        else:
            pieces.close()  # type: ignore[attr-defined]

    assert isinstance(kept, bytearray)
    assert not any(kept)


def test_forged_block_is_not_streamed_even_in_part(
    tmp_path: Path, made: SealedFiles, identity: Identity
) -> None:
    """Whoever knows the key could else have bytes released before the end is seen."""
    (entry,) = (e for e in made.manifest["files"] if e["path"] == "b")
    path = made.object_path("b")
    context = encryptor.object_context(made.seal_id, entry["object_id"])
    salt = made.files[path][:24]
    made.files[path] = encryptor.encrypt_message(
        made.model_key, salt, context, bytes(200_000)
    )
    with opened(write(made.files, tmp_path), identity) as sealing:
        pieces = sealing.stream_file(entry_of(sealing, "b"))
        with pytest.raises(DamagedError):
            next(pieces)


def test_block_is_decrypted_from_the_memory_that_was_checked(
    tmp_path: Path,
    made: SealedFiles,
    identity: Identity,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each byte of the disk is read once: nothing can change after the check."""
    reads: list[tuple[int, int]] = []

    def count(fd: int, target: memoryview, offset: int) -> None:
        reads.append((offset, len(target)))
        read_fully(fd, target, offset)

    monkeypatch.setattr("ovfuse.sealed.reader.read_fully", count)
    with opened(write(made.files, tmp_path), identity) as sealing:
        assert read_at(sealing, entry_of(sealing, "b"), 0, 200_000) == pattern(200_000)

    assert reads == [(56, 200_000 + 13 * 16)]


# Messages


def test_unexpected_error_is_named_without_its_text() -> None:
    try:
        raise ValueError(MARKER.decode())
    except ValueError as error:
        said = describe(error)

    assert said.startswith("ValueError at test_traces.py:")
    assert MARKER.decode() not in said


# The source


def test_link_to_a_neighbour_of_the_same_beginning_leaves_the_model(
    tmp_path: Path,
) -> None:
    write_files(tmp_path / "model-private", {"a": b""})
    write_files(tmp_path / "model", {"b": b""})
    (tmp_path / "model" / "link").symlink_to("../model-private/a")

    with pytest.raises(SourceError, match="leaves the model directory"):
        scan(tmp_path / "model")


# Writing


@pytest.mark.skipif(
    sys.version_info >= (3, 13), reason="there it is removed, however deep"
)
def test_rests_that_are_too_deep_to_remove_are_an_error(tmp_path: Path) -> None:
    """Somebody who writes the cipherdir can stop the next sealing, not break it."""
    publisher = Publisher.make()
    source = write_files(tmp_path / "plain")
    publisher.seal(source, tmp_path / "sealed")
    top = tmp_path / "sealed" / "seals" / ("0" * 32)
    top.mkdir()
    fd = os.open(top, os.O_RDONLY)
    for _ in range(2000):
        os.mkdir("d", dir_fd=fd)
        inner = os.open("d", os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = inner
    os.close(fd)
    try:
        with pytest.raises(CipherdirError, match=r"nested too deeply|Too many open"):
            publisher.seal(source, tmp_path / "sealed")
    finally:
        subprocess.run(["rm", "-rf", top], check=True)

    assert publisher.seal(source, tmp_path / "sealed").facts.version == 2


def test_both_sealings_stay_when_the_next_cannot_be_switched_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publisher = Publisher.make()
    source = write_files(tmp_path / "plain")
    for _ in range(2):
        publisher.seal(source, tmp_path / "sealed")
    before = sorted(os.listdir(tmp_path / "sealed" / "seals"))
    assert len(before) == 2

    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", fail)
        with pytest.raises(CipherdirError, match="Input/output error"):
            publisher.seal(source, tmp_path / "sealed")

    assert sorted(os.listdir(tmp_path / "sealed" / "seals")) == before
