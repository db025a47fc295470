"""Sealing: versions, names, who may, and what is on the disk afterwards."""

import errno
import json
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import hypothesis
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ovfuse.errors import (
    BusyError,
    CipherdirError,
    DamagedError,
    NewerFormatError,
    OvfuseError,
    SourceError,
    UntrustedError,
    UsageError,
)
from ovfuse.sealed import layout
from ovfuse.sealed.disk import sync_filesystem
from ovfuse.sealed.manifest import Manifest, Terms
from ovfuse.sealed.opening import SealedModel
from ovfuse.sealed.publish import SealingRequest, seal
from ovfuse.sealed.sealer import CipherdirWriter
from ovfuse.sealed.wrapping import unwrap
from tests.support import encryptor
from tests.support.leaks import PlaintextIndex
from tests.support.sealed import (
    SMALL_FILES,
    Publisher,
    make_identity,
    make_unlocker,
    opened,
    outcome,
    pattern,
    read_everything,
    recipient_of,
    seal_quietly,
    write_files,
)

NOW = 1_900_000_000


@pytest.fixture(scope="module")
def publisher() -> Publisher:
    return Publisher.make()


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_files(tmp_path / "model")


@pytest.fixture
def cipherdir(tmp_path: Path) -> Path:
    return tmp_path / "small"


@pytest.fixture
def request_(publisher: Publisher, model: Path, cipherdir: Path) -> SealingRequest:
    return publisher.request(model, cipherdir)


def set_time(monkeypatch: pytest.MonkeyPatch, now: float) -> None:
    monkeypatch.setattr("ovfuse.sealed.publish.time.time", lambda: now)


def snapshot(directory: Path) -> dict[str, bytes | None]:
    """Return what is below a directory: the content of files, None for directories."""
    return {
        str(path.relative_to(directory)): path.read_bytes() if path.is_file() else None
        for path in directory.rglob("*")
    }


def seal_ids(directory: Path) -> set[str]:
    return {path.name for path in (directory / "seals").iterdir()}


def model_key_of(directory: Path, publisher: Publisher) -> bytes:
    with opened(directory, publisher.identity) as sealing:
        return bytes(sealing.model_key.view)


# What is written


def test_sealed_model_is_read_again(
    request_: SealingRequest, publisher: Publisher
) -> None:
    manifest = seal_quietly(request_)

    assert read_everything(request_.cipherdir, publisher.unlocker) == SMALL_FILES
    assert manifest.name == "small"
    assert manifest.directories == ("sub",)


def test_sealed_model_is_read_by_the_other_reader(
    publisher: Publisher, tmp_path: Path
) -> None:
    files = {
        f"{size}": pattern(size) for size in (0, 1, 16384, 65536, 65537, 2**20 + 1)
    }
    write_files(tmp_path / "model", files)
    (tmp_path / "model/e/f").mkdir(parents=True)
    manifest = publisher.seal(tmp_path / "model", tmp_path / "c", "org/name")
    found = encryptor.decrypt(tmp_path / "c", model_key_of(tmp_path / "c", publisher))

    assert found.files == files
    assert found.signers == [publisher.signing_key.public.raw]
    assert found.manifest["directories"] == ["e", "e/f"]
    assert found.manifest["name"] == "org/name"
    assert found.manifest["terms"] == encryptor.NO_TERMS
    assert found.manifest["critical"] == []
    assert found.manifest["extensions"] == {}
    assert found.manifest["previous"] is None
    assert found.facts == {
        "format": 1,
        "model_id": manifest.facts.model_id,
        "seal_id": manifest.facts.seal_id,
        "sealed_at": manifest.facts.sealed_at,
        "version": 1,
    }
    assert all(e["padded_size"] == e["size"] for e in found.manifest["files"])


components = st.text(
    st.characters(exclude_categories=["Cs"], exclude_characters="/\0"),
    min_size=1,
    max_size=8,
).filter(lambda name: name not in {".", ".."})
contents = st.binary(max_size=100) | st.integers(0, 140_000).map(pattern)


@hypothesis.settings(max_examples=25)
@given(
    files=st.dictionaries(components, contents, min_size=1, max_size=4),
    depth=st.integers(0, 3),
)
def test_any_model_is_read_by_the_other_reader(
    publisher: Publisher, files: dict[str, bytes], depth: int
) -> None:
    prefix = "".join(f"d{number}/" for number in range(depth))
    paths = {f"{prefix}{name}": content for name, content in files.items()}
    with TemporaryDirectory() as scratch:
        model = write_files(Path(scratch, "model"), paths)
        publisher.seal(model, Path(scratch, "c"))
        key = model_key_of(Path(scratch, "c"), publisher)
        found = encryptor.decrypt(Path(scratch, "c"), key)
        assert read_everything(Path(scratch, "c"), publisher.unlocker) == paths

    assert found.files == paths


def test_layout_is_that_of_the_document(request_: SealingRequest) -> None:
    manifest = seal_quietly(request_)
    seal_id = manifest.facts.seal_id
    found = snapshot(request_.cipherdir)
    keys = [p for p in found if p.startswith(f"seals/{seal_id}/keys/")]

    assert len(keys) == 1
    assert set(found) == {
        "model.ovfuse",
        "seals",
        f"seals/{seal_id}",
        f"seals/{seal_id}/manifest.dsse.json",
        f"seals/{seal_id}/blocks",
        f"seals/{seal_id}/keys",
        f"seals/{seal_id}/objects",
        *keys,
        *(f"seals/{seal_id}/objects/{e.object_id}" for e in manifest.files),
    }
    assert found["model.ovfuse"] == f"ovfuse 1 {seal_id}\n".encode()


def test_key_files_are_one_for_each_recipient(
    request_: SealingRequest, publisher: Publisher
) -> None:
    others = [make_identity() for _ in range(3)]
    recipients = [publisher.recipient, *map(recipient_of, others), publisher.recipient]
    manifest = seal_quietly(replace(request_, recipients=recipients))
    key = model_key_of(request_.cipherdir, publisher)
    keys = request_.cipherdir / f"seals/{manifest.facts.seal_id}/keys"

    assert {path.name for path in keys.iterdir()} == {
        encryptor.key_file_name(key, recipient.canonical) for recipient in recipients
    }
    for identity in (publisher.identity, *others):
        name = encryptor.key_file_name(key, recipient_of(identity).canonical)
        secret = unwrap((keys / name).read_bytes(), [identity])
        assert secret is not None
        assert bytes(secret.view) == key


def test_nothing_is_used_twice(request_: SealingRequest, publisher: Publisher) -> None:
    """Keys, ids and salts are new in each sealing, whatever stays the same."""
    seen: set[bytes | str] = set()
    for _ in range(2):
        manifest = seal_quietly(request_)
        sealing = request_.cipherdir / "seals" / manifest.facts.seal_id
        ids = [entry.object_id for entry in manifest.files]
        salts = [(sealing / "objects" / name).read_bytes()[:24] for name in ids]
        envelope = json.loads((sealing / "manifest.dsse.json").read_bytes())
        drawn = {
            manifest.facts.seal_id,
            model_key_of(request_.cipherdir, publisher),
            envelope["payload"][200:],
            *ids,
            *salts,
        }
        assert len(drawn) == 3 + 2 * len(SMALL_FILES)
        assert not seen & drawn
        seen |= drawn


def test_sizes_and_progress_are_told(request_: SealingRequest) -> None:
    totals: list[int] = []
    steps: list[int] = []
    seal(request_, on_total=totals.append, on_bytes=steps.append)

    size = sum(map(len, SMALL_FILES.values()))
    assert (totals, sum(steps)) == ([size], size)


def test_terms_are_signed(request_: SealingRequest, publisher: Publisher) -> None:
    terms = Terms(machines=("0a" * 32,), not_before=1, not_after=2, text="no\nmilitary")
    seal_quietly(replace(request_, terms=terms))

    with opened(request_.cipherdir, publisher.identity) as sealing:
        assert sealing.manifest.terms == terms


def test_nothing_readable_is_left(
    publisher: Publisher, tmp_path: Path, cipherdir: Path
) -> None:
    names = ["unmistakable-name.xml", "directory-of-weights/weights.bin"]
    model = write_files(tmp_path / "model", {n: pattern(100_000) for n in names})
    publisher.seal(model, cipherdir, "organisation/secret-project")
    words = [
        "unmistakable-name",
        "directory-of-weights",
        "secret-project",
        "weights.bin",
    ]
    index = PlaintextIndex(model, [*words, "organisation"])
    files = [path for path in cipherdir.rglob("*") if path.is_file()]

    assert index.search(files) == []
    assert index.search([model / names[0]]) != []  # the search itself works
    paths = "\n".join(map(str, cipherdir.rglob("*")))
    assert not any(word in paths for word in words)


# Versions


def test_next_sealing_is_the_next_version(
    request_: SealingRequest, publisher: Publisher, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_time(monkeypatch, NOW)
    first = seal_quietly(request_)
    set_time(monkeypatch, NOW + 100.9)
    payload = payload_of(request_.cipherdir, first)
    second = seal_quietly(request_)

    assert (first.facts.version, first.facts.sealed_at) == (1, NOW)
    assert (second.facts.version, second.facts.sealed_at) == (2, NOW + 100)
    assert second.facts.model_id == first.facts.model_id
    assert second.previous is not None
    assert second.previous.seal_id == first.facts.seal_id
    assert second.previous.payload_sha256 == payload
    with SealedModel.open(request_.cipherdir) as directory:
        assert directory.previous_finding(second) is None


def payload_of(directory: Path, manifest: Manifest) -> str:
    seal_id = manifest.facts.seal_id
    with SealedModel.open(directory) as model, model.sealing(seal_id) as locked:
        return locked.envelope.payload_sha256


@pytest.mark.parametrize("later", [0, -1000])
def test_time_never_stands_still(
    request_: SealingRequest, monkeypatch: pytest.MonkeyPatch, later: int
) -> None:
    times = []
    for number in range(3):
        set_time(monkeypatch, NOW + number * later)
        times.append(seal_quietly(request_).facts.sealed_at)

    assert times == [NOW, NOW + 1, NOW + 2]


def test_only_the_sealing_before_is_kept(
    request_: SealingRequest, publisher: Publisher
) -> None:
    ids = [seal_quietly(request_).facts.seal_id for _ in range(4)]

    assert seal_ids(request_.cipherdir) == set(ids[-2:])
    assert read_everything(request_.cipherdir, publisher.unlocker) == SMALL_FILES


def test_new_content_is_in_the_new_sealing_alone(
    request_: SealingRequest, publisher: Publisher, model: Path
) -> None:
    old = seal_quietly(request_)
    (model / "sub/labels.txt").unlink()
    (model / "new").write_bytes(b"new")
    seal_quietly(request_)

    expected = {k: v for k, v in SMALL_FILES.items() if not k.startswith("sub")}
    assert read_everything(request_.cipherdir, publisher.unlocker) == {
        **expected,
        "new": b"new",
    }
    assert {entry.path for entry in old.files} == set(SMALL_FILES)


def test_new_model_starts_over(request_: SealingRequest) -> None:
    first = seal_quietly(request_)
    second = seal_quietly(replace(request_, new_model=True, name="other"))

    assert second.facts.version == 1
    assert second.facts.model_id != first.facts.model_id
    assert second.previous is None
    assert second.name == "other"
    ids = {first.facts.seal_id, second.facts.seal_id}
    assert seal_ids(request_.cipherdir) == ids


# Names


@pytest.mark.parametrize(
    ("name", "directory", "expected"),
    [
        (None, "small", "small"),
        ("org/given", "small", "org/given"),
        ("given", "small@2", "given"),
    ],
)
def test_name_of_a_new_model(
    request_: SealingRequest,
    tmp_path: Path,
    name: str | None,
    directory: str,
    expected: str,
) -> None:
    request = replace(request_, name=name, cipherdir=tmp_path / directory)

    assert seal_quietly(request).name == expected


def test_name_is_not_that_of_a_link_target(
    request_: SealingRequest, tmp_path: Path
) -> None:
    (tmp_path / "store").mkdir()
    (tmp_path / "link").symlink_to("store")
    request = replace(request_, cipherdir=tmp_path / "link")

    assert seal_quietly(request).name == "link"


def test_name_of_the_working_directory(
    request_: SealingRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")

    assert seal_quietly(replace(request_, cipherdir=Path())).name == "here"


@pytest.mark.parametrize("name", ["", "m@1", "../m", "/m", "m/", "a//b", "n" * 256])
def test_name_that_cannot_be_one(request_: SealingRequest, name: str) -> None:
    with pytest.raises(UsageError, match="cannot be the name of a model"):
        seal_quietly(replace(request_, name=name))
    assert not request_.cipherdir.exists()


@pytest.mark.parametrize("directory", ["small@2", os.fsdecode(b"\xff")])
def test_directory_whose_name_cannot_be_one(
    request_: SealingRequest, tmp_path: Path, directory: str
) -> None:
    request = replace(request_, cipherdir=tmp_path / directory)
    with pytest.raises(UsageError, match="cannot be the name"):
        seal_quietly(request)
    assert not request.cipherdir.exists()


def test_name_is_kept(request_: SealingRequest, tmp_path: Path) -> None:
    seal_quietly(replace(request_, name="org/kept"))
    request_.cipherdir.rename(tmp_path / "moved")
    request = replace(request_, cipherdir=tmp_path / "moved")

    assert seal_quietly(request).name == "org/kept"
    assert seal_quietly(replace(request, name="org/kept")).name == "org/kept"


def test_other_name_is_refused(request_: SealingRequest) -> None:
    seal_quietly(request_)
    with pytest.raises(UsageError, match="this model is named 'small'"):
        seal_quietly(replace(request_, name="other"))


def test_name_that_we_cannot_read_must_be_given(request_: SealingRequest) -> None:
    seal_quietly(request_)
    blind = replace(request_, identities=[make_identity()])
    with pytest.raises(UsageError, match="cannot be read") as caught:
        seal_quietly(blind)

    assert "--name" in caught.value.hint
    assert seal_quietly(replace(blind, name="small")).facts.version == 2


# Refusals


def refused(request: SealingRequest, expected: type[OvfuseError], match: str) -> None:
    """Check that sealing is refused and nothing on the disk is changed by it."""
    everything = request.model_directory.parent
    before = snapshot(everything)
    with pytest.raises(expected, match=match):
        seal_quietly(request)
    assert snapshot(everything) == before


def test_model_of_another_publisher(request_: SealingRequest) -> None:
    seal_quietly(request_)
    other = Publisher.make()
    request = replace(
        request_, signing_key=other.signing_key, trusted={other.signing_key.public}
    )

    fingerprint = request_.signing_key.public.fingerprint.replace("+", r"\+")
    refused(request, UntrustedError, f"signed by {fingerprint}")
    assert seal_quietly(replace(request, new_model=True)).facts.version == 1


def test_model_of_a_trusted_colleague(request_: SealingRequest) -> None:
    seal_quietly(request_)
    other = Publisher.make()
    request = replace(request_, signing_key=other.signing_key)

    assert seal_quietly(request).facts.version == 2


def test_model_that_nobody_signed(request_: SealingRequest, cipherdir: Path) -> None:
    made = encryptor.encrypt(encryptor.Plain(files={"a": b"a"}, signers=0), "publish")
    made.write(cipherdir)

    refused(request_, UntrustedError, "signed by nobody, whom you do not trust")


@pytest.mark.parametrize("count", [0, 1025])
def test_number_of_recipients(request_: SealingRequest, count: int) -> None:
    recipients = [request_.recipients[0]] * count

    refused(replace(request_, recipients=recipients), UsageError, "recipient")


@pytest.mark.parametrize(
    ("cipherdir", "match"),
    [
        ("model", "the cipherdir is inside the model directory"),
        ("model/sub/enc", "the cipherdir is inside the model directory"),
        ("model/../model/enc", "the cipherdir is inside the model directory"),
        ("link/enc", "the cipherdir is inside the model directory"),
        (".", "the model directory is inside the cipherdir"),
    ],
)
def test_directories_inside_each_other(
    request_: SealingRequest, tmp_path: Path, cipherdir: str, match: str
) -> None:
    (tmp_path / "link").symlink_to("model")

    refused(replace(request_, cipherdir=tmp_path / cipherdir), SourceError, match)


def test_cipherdir_inside_a_sealed_model(
    request_: SealingRequest, cipherdir: Path
) -> None:
    seal_quietly(request_)

    inside = replace(request_, cipherdir=cipherdir / "seals/x/y")
    refused(inside, CipherdirError, "inside the sealed model")


def make_file(path: Path) -> None:
    path.write_bytes(b"x")


def make_other_directory(path: Path) -> None:
    write_files(path, {"notes.txt": b"x"})


def make_tree(path: Path) -> None:
    (path / "a-model").mkdir(parents=True)


def make_foreign_seals(path: Path) -> None:
    (path / "seals" / "my-seals").mkdir(parents=True)


def make_file_seals(path: Path) -> None:
    write_files(path, {"seals": b""})


def make_linked_seals(path: Path) -> None:
    path.mkdir()
    (path.parent / "elsewhere").mkdir()
    (path / "seals").symlink_to("../elsewhere")


def make_link_to_nothing(path: Path) -> None:
    path.symlink_to("nothing")


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (make_file, "Not a directory"),
        (make_other_directory, "not empty and holds no sealed model"),
        (make_tree, "not empty and holds no sealed model"),
        (make_foreign_seals, "not empty and holds no sealed model"),
        (make_file_seals, "not empty and holds no sealed model"),
        (make_linked_seals, "not empty and holds no sealed model"),
        (make_link_to_nothing, "No such file"),
    ],
)
def test_cipherdir_with_something_else(
    request_: SealingRequest, cipherdir: Path, make: Callable[[Path], None], match: str
) -> None:
    make(cipherdir)

    refused(request_, CipherdirError, match)


def test_cipherdir_whose_parent_is_missing(
    request_: SealingRequest, tmp_path: Path
) -> None:
    refused(
        replace(request_, cipherdir=tmp_path / "none" / "c"), CipherdirError, "No such"
    )


def test_empty_cipherdir_is_used(request_: SealingRequest, cipherdir: Path) -> None:
    cipherdir.mkdir()

    assert seal_quietly(request_).facts.version == 1


def test_damaged_sealing_is_only_replaced_on_demand(
    request_: SealingRequest, cipherdir: Path, publisher: Publisher
) -> None:
    manifest = seal_quietly(request_)
    shutil.rmtree(cipherdir / "seals" / manifest.facts.seal_id)

    refused(request_, DamagedError, "missing")
    seal_quietly(replace(request_, new_model=True))
    assert read_everything(cipherdir, publisher.unlocker) == SMALL_FILES


def test_damaged_pointer_is_only_replaced_on_demand(
    request_: SealingRequest, cipherdir: Path, publisher: Publisher
) -> None:
    seal_quietly(request_)
    (cipherdir / "model.ovfuse").write_bytes(b"x")

    refused(request_, DamagedError, "pointer")
    manifest = seal_quietly(replace(request_, new_model=True))
    assert seal_ids(cipherdir) == {manifest.facts.seal_id}
    assert read_everything(cipherdir, publisher.unlocker) == SMALL_FILES


@pytest.mark.parametrize("new_model", [False, True])
def test_newer_format_is_never_replaced(
    request_: SealingRequest, cipherdir: Path, *, new_model: bool
) -> None:
    seal_quietly(request_)
    (cipherdir / "model.ovfuse").write_bytes(b"ovfuse 2 else")

    refused(replace(request_, new_model=new_model), NewerFormatError, "format 2")


@pytest.mark.parametrize(
    "terms",
    [
        Terms(not_before=2, not_after=1),
        Terms(text="x" * 65537),
        Terms(machines=("0b" * 32, "0a" * 32)),
    ],
    ids=["times", "text", "machines"],
)
def test_manifest_that_readers_would_refuse_is_not_published(
    request_: SealingRequest, terms: Terms
) -> None:
    seal_quietly(request_)

    keep = replace(request_, terms=terms)
    refused(keep, DamagedError, "the terms|malformed")


def test_envelope_that_readers_would_refuse_is_not_published(
    request_: SealingRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(layout, "ENVELOPE_MAX_SIZE", 1000)

    refused(request_, SourceError, "paths in the model directory are too long")


# Files that change meanwhile


def seal_while(request: SealingRequest, change: Callable[[], object]) -> None:
    """Seal; when the first bytes were read, change something."""
    done: list[int] = []

    def on_bytes(size: int) -> None:
        if not done:
            change()
        done.append(size)

    seal(request, on_total=lambda _: None, on_bytes=on_bytes)


CHANGES: dict[str, Callable[[Path], object]] = {
    "file that is read grows": lambda m: append(m / "model.bin"),
    "file that is read is rewritten": lambda m: (m / "model.bin").write_bytes(
        b"x" * 768
    ),
    "file that is read is truncated": lambda m: os.truncate(m / "model.bin", 5),
    "later file grows": lambda m: append(m / "model.xml"),
    "later file is gone": lambda m: (m / "model.xml").unlink(),
    "later file is replaced": lambda m: replace_file(m / "model.xml"),
    "later file is a FIFO": lambda m: make_fifo(m / "model.xml"),
}


def append(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"more")


def replace_file(path: Path) -> None:
    shutil.copy2(path, path.with_name("copy"))
    path.with_name("copy").rename(path)


def make_fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize("what", CHANGES)
@pytest.mark.parametrize("before", [0, 1])
def test_file_that_changes_is_an_error(
    request_: SealingRequest, model: Path, what: str, before: int
) -> None:
    for path in model.rglob("*"):
        os.utime(path, (1, 1))
    for _ in range(before):
        seal_quietly(request_)
    old = snapshot(request_.cipherdir) if before else None

    with pytest.raises(SourceError):
        seal_while(request_, lambda: CHANGES[what](model))
    if old is None:
        assert not request_.cipherdir.exists()
    else:
        assert snapshot(request_.cipherdir) == old


def test_interrupt_leaves_nothing(request_: SealingRequest) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        seal_while(request_, interrupt)
    assert not request_.cipherdir.exists()


def test_empty_directory_that_was_there_stays(
    request_: SealingRequest, cipherdir: Path, model: Path
) -> None:
    cipherdir.mkdir()
    os.utime(model / "model.bin", (1, 1))
    with pytest.raises(SourceError):
        seal_while(request_, lambda: append(model / "model.bin"))

    assert snapshot(cipherdir) == {}


def test_both_sealings_survive_one_that_fails(
    request_: SealingRequest, cipherdir: Path, model: Path
) -> None:
    seal_quietly(request_)
    seal_quietly(request_)
    os.utime(model / "model.bin", (1, 1))
    before = snapshot(cipherdir)
    with pytest.raises(SourceError):
        seal_while(request_, lambda: append(model / "model.bin"))

    assert snapshot(cipherdir) == before
    assert len(list((cipherdir / "seals").iterdir())) == 2


def test_switch_that_may_not_last_is_told_as_such(
    request_: SealingRequest, cipherdir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The new sealing is the current one: nothing is removed, and nobody misled."""
    seal_quietly(request_)
    fsync = os.fsync

    def fail_for_directories(fd: int) -> None:
        if stat.S_ISDIR(os.fstat(fd).st_mode):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        fsync(fd)

    monkeypatch.setattr(os, "fsync", fail_for_directories)
    with pytest.raises(CipherdirError, match=r"switched to .*: Input/output error"):
        seal_quietly(request_)

    with SealedModel.open(cipherdir) as model, model.current() as current:
        assert current.envelope.facts.version == 2
    assert len(seal_ids(cipherdir)) == 2


def test_new_model_is_never_older_than_the_one_it_replaces(
    request_: SealingRequest,
) -> None:
    """OpenVINO's compile cache would take it for the same file."""
    first = seal_quietly(request_)
    second = seal_quietly(replace(request_, new_model=True))

    assert second.facts.model_id != first.facts.model_id
    assert second.facts.sealed_at > first.facts.sealed_at


def test_file_that_ends_early_is_an_error(
    request_: SealingRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever its attributes say."""
    monkeypatch.setattr(os, "readv", lambda *_: 0)

    refused(request_, SourceError, "'model.bin' changed while it was being sealed")


# Interrupted runs, other writers, full disks


LEFT: dict[str, Callable[[Path], object]] = {
    "part of a sealing": lambda seals: write_files(seals / ("0a" * 16), SMALL_FILES),
    "empty sealing": lambda seals: (seals / ("0b" * 16)).mkdir(),
    "pointer": lambda seals: (seals / "pointer.new").write_bytes(b"x"),
    "link": lambda seals: (seals / ("0c" * 16)).symlink_to("/etc"),
}


@pytest.mark.parametrize("what", LEFT)
def test_interrupted_first_sealing_is_cleaned(
    request_: SealingRequest, cipherdir: Path, publisher: Publisher, what: str
) -> None:
    (cipherdir / "seals").mkdir(parents=True)
    LEFT[what](cipherdir / "seals")
    manifest = seal_quietly(request_)

    assert manifest.facts.version == 1
    assert seal_ids(cipherdir) == {manifest.facts.seal_id}
    assert Path("/etc/passwd").exists()
    assert read_everything(cipherdir, publisher.unlocker) == SMALL_FILES


@pytest.mark.parametrize("what", LEFT)
def test_rests_are_removed_by_the_next_sealing(
    request_: SealingRequest, cipherdir: Path, what: str
) -> None:
    first = seal_quietly(request_)
    LEFT[what](cipherdir / "seals")
    second = seal_quietly(request_)

    assert seal_ids(cipherdir) == {first.facts.seal_id, second.facts.seal_id}


def test_what_is_not_ours_stays(request_: SealingRequest, cipherdir: Path) -> None:
    seal_quietly(request_)
    write_files(cipherdir, {"seals/lost+found/x": b"x", "README": b"x"})
    seal_quietly(request_)
    seal_quietly(request_)

    found = snapshot(cipherdir)
    assert (found["seals/lost+found/x"], found["README"]) == (b"x", b"x")


def test_second_writer_is_refused(request_: SealingRequest, cipherdir: Path) -> None:
    seal_quietly(request_)
    with CipherdirWriter.open(cipherdir):
        refused(request_, BusyError, "being written by another process")
    assert seal_quietly(request_).facts.version == 2


def test_other_process_that_writes(request_: SealingRequest, cipherdir: Path) -> None:
    seal_quietly(request_)
    script = "echo locked; cat"
    with subprocess.Popen(
        ["flock", "-n", cipherdir, "sh", "-c", script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"locked\n"
        refused(request_, BusyError, "being written by another process")
        other.communicate()
    assert seal_quietly(request_).facts.version == 2


KILLED = """
import os, sys
from pathlib import Path
from ovfuse.sealed.publish import seal
from tests.support.sealed import Publisher
def die(_):
    os.kill(os.getpid(), 9)
request = Publisher.make().request(Path(sys.argv[1]), Path(sys.argv[2]))
seal(request, on_total=lambda _: None, on_bytes=die)
"""


def run_python(script: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", script, *map(str, arguments)],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )


def test_killed_first_sealing_is_damage_until_the_next(
    request_: SealingRequest, cipherdir: Path, model: Path, publisher: Publisher
) -> None:
    result = run_python(KILLED, model, cipherdir)
    assert result.returncode == -9, result.stderr
    assert isinstance(outcome(cipherdir, publisher.unlocker), DamagedError)
    assert len(seal_ids(cipherdir)) == 1

    manifest = seal_quietly(request_)
    assert seal_ids(cipherdir) == {manifest.facts.seal_id}
    assert read_everything(cipherdir, publisher.unlocker) == SMALL_FILES


MEMORY = """
import re, sys
from pathlib import Path
from tests.support.sealed import Publisher, opened
def status(name):
    text = Path("/proc/self/status").read_text()
    return int(re.search(name + r":\\s+(\\d+) kB", text)[1])
publisher = Publisher.make()
publisher.seal(Path(sys.argv[1]), Path(sys.argv[2]))
before = status("VmRSS")
publisher.seal(Path(sys.argv[3]), Path(sys.argv[4]))
after_sealing = status("VmHWM")
with opened(Path(sys.argv[4]), publisher.identity) as sealing:
    for entry in sealing.manifest.files:
        sealing.verify_file(entry, lambda size: None)
print(after_sealing - before, status("VmHWM") - before)
"""


@pytest.mark.slow
def test_memory_is_constant(tmp_path: Path, model: Path) -> None:
    (tmp_path / "large").mkdir()
    (tmp_path / "large/weights").touch()
    os.truncate(tmp_path / "large/weights", 300 * 2**20)
    places = [model, tmp_path / "c1", tmp_path / "large", tmp_path / "c2"]
    result = run_python(MEMORY, *places)
    shutil.rmtree(tmp_path / "c2", ignore_errors=True)

    assert result.returncode == 0, result.stderr
    sealing_kib, verifying_kib = map(int, result.stdout.split())
    assert sealing_kib < 16 * 1024
    assert verifying_kib < 16 * 1024


def test_lock_that_the_system_refuses(
    request_: SealingRequest, cipherdir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_locks(*_: object) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr("ovfuse.sealed.sealer.fcntl.flock", no_locks)
    seal_error = "No locks available"
    with pytest.raises(CipherdirError, match=seal_error):
        seal_quietly(request_)


FAILING = ["ovfuse.sealed.sealer.sync_filesystem", "os.rename"]


@pytest.mark.parametrize("function", FAILING)
@pytest.mark.parametrize("before", [0, 1])
def test_failure_after_everything_was_written(
    request_: SealingRequest,
    cipherdir: Path,
    monkeypatch: pytest.MonkeyPatch,
    function: str,
    before: int,
) -> None:
    for _ in range(before):
        seal_quietly(request_)
    old = snapshot(cipherdir) if before else None
    monkeypatch.setattr(function, fail)

    with pytest.raises(CipherdirError, match="No space left on device"):
        seal_quietly(request_)
    monkeypatch.undo()
    if old is None:
        assert not cipherdir.exists()
    else:
        assert snapshot(cipherdir) == old


def fail(*_: object, **__: object) -> None:
    raise OSError(28, "No space left on device")


def test_failure_of_syncfs_is_told(
    request_: SealingRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    def sync_nothing(_: int) -> None:
        sync_filesystem(-1)

    monkeypatch.setattr("ovfuse.sealed.sealer.sync_filesystem", sync_nothing)
    with pytest.raises(CipherdirError, match="Bad file descriptor"):
        seal_quietly(request_)
    assert not request_.cipherdir.exists()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A filesystem of 1 MiB."""
    place = tmp_path / "disk"
    place.mkdir()
    if os.geteuid() != 0:
        pytest.skip("mounting a tmpfs needs root")
    if os.system(f"mount -t tmpfs -o size=1m ovfuse-test {place} 2>/dev/null"):  # noqa: S605 - our own path
        pytest.skip("mounting a tmpfs is not allowed here")
    yield place
    os.system(f"umount {place}")  # noqa: S605 - likewise


def test_full_disk_leaves_nothing(
    request_: SealingRequest, small_disk: Path, model: Path
) -> None:
    (model / "large").write_bytes(bytes(2**21))
    with pytest.raises(CipherdirError, match="No space left on device"):
        seal_quietly(replace(request_, cipherdir=small_disk / "c"))

    assert snapshot(small_disk) == {}


def test_full_disk_leaves_the_old_model(
    request_: SealingRequest, small_disk: Path, model: Path, publisher: Publisher
) -> None:
    request = replace(request_, cipherdir=small_disk / "c")
    seal_quietly(request)
    before = snapshot(small_disk)
    (model / "large").write_bytes(bytes(2**21))
    with pytest.raises(CipherdirError, match="No space left on device"):
        seal_quietly(request)

    assert snapshot(small_disk) == before
    assert read_everything(request.cipherdir, publisher.unlocker) == SMALL_FILES


def test_every_full_page_leaves_a_whole_model(
    request_: SealingRequest, small_disk: Path, publisher: Publisher
) -> None:
    """Wherever the space ends, the old model or the new one is there, whole."""
    request = replace(request_, cipherdir=small_disk / "c")
    seal_quietly(request)
    refusals = 0
    for kept_pages in range(20):
        ballast = small_disk / "ballast"
        free = os.statvfs(small_disk).f_bavail
        ballast.write_bytes(bytes(4096 * max(0, free - kept_pages)))
        known = seal_ids(request.cipherdir)
        try:
            seal_quietly(request)
        except CipherdirError:
            refusals += 1
            assert len(seal_ids(request.cipherdir)) <= len(known)
        ballast.unlink()
        assert read_everything(request.cipherdir, publisher.unlocker) == SMALL_FILES
        assert len(seal_ids(request.cipherdir)) <= 2

    assert 0 < refusals < 20


def test_modes_follow_the_umask(request_: SealingRequest, cipherdir: Path) -> None:
    old = os.umask(0o027)
    try:
        seal_quietly(request_)
    finally:
        os.umask(old)

    modes = {stat.S_IMODE(path.stat().st_mode) for path in cipherdir.rglob("*")}
    assert modes == {0o640, 0o750}


def test_untrusting_reader_is_told_who_signed(request_: SealingRequest) -> None:
    seal_quietly(request_)
    found = outcome(request_.cipherdir, make_unlocker(request_.identities, []))

    assert isinstance(found, UntrustedError)
    assert request_.signing_key.public.fingerprint in found.message
