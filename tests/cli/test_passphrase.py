"""Passphrases: asked for on a real terminal, and nowhere else."""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from ovfuse.errors import NoUsableKeyError, UsageError
from ovfuse.sealed import opening, wrapped
from ovfuse.sealed.reader import ScratchPool
from ovfuse.sealed.wrapping import wrap_with_passphrase
from tests.cli.conftest import inspected, key_files, snapshot
from tests.support.mounting import (
    ENGINES,
    Home,
    is_mounted,
    mounted,
    refused,
    refused_mount,
    run_ovfuse,
    succeed,
)
from tests.support.prompts import type_into
from tests.support.sealed import Publisher, opened, write_files
from tests.support.users import open_directory

PASSPHRASE = "correct horse \u00e9 battery"


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    with open_directory() as directory:
        yield directory


@pytest.fixture(scope="module")
def owner(place: Path) -> Home:
    """Who sealed for a passphrase only, and has no other way in."""
    return Home(directory=place / "owner")


@pytest.fixture(scope="module")
def locked(owner: Home, place: Path) -> Path:
    """A tree of two models; tests leave it alone."""
    (place / "plain").mkdir()
    (place / "plain" / "model.xml").write_text("<net/>")
    (place / "tree").mkdir()
    for name in ("a", "b"):
        arguments = ("encrypt", "-p", place / "plain", place / "tree" / name)
        typed = type_into(owner, *arguments, answers=[PASSPHRASE, PASSPHRASE])
        assert typed.code == 0, typed.stderr
        assert "for: whoever knows the passphrase" in typed.stdout
        assert "new passphrase: " in typed.screen
    return place / "tree"


def test_passphrase_alone(owner: Home, locked: Path) -> None:
    (key_file,) = inspected(owner, locked / "a")["key_files"]

    assert key_file["types"] == ["scrypt"]
    assert not owner.identity.exists()  # nobody needs it
    factor = re.search(
        rb"-> scrypt \S+ (\d+)\n", key_files(locked / "a")[0].read_bytes()
    )
    assert factor is not None
    assert int(factor[1]) <= 20


def test_verify_and_decrypt_ask(owner: Home, locked: Path, scratch: Path) -> None:
    typed = type_into(owner, "verify", locked / "a", answers=[PASSPHRASE])
    assert typed.code == 0, typed.stderr
    assert "ok     'model.xml'" in typed.stdout
    assert f"passphrase for '{locked}/a': " in typed.screen
    arguments = ("decrypt", locked, scratch / "out")
    typed = type_into(owner, *arguments, answers=[PASSPHRASE, PASSPHRASE])
    assert typed.code == 0, typed.stderr
    assert "passphrase for 'b': " in typed.screen
    assert set(snapshot(scratch / "out")) == {"a", "b", "a/model.xml", "b/model.xml"}


@pytest.mark.parametrize("answer", ["wrong", ""])
def test_wrong_passphrase(owner: Home, locked: Path, answer: str) -> None:
    typed = type_into(owner, "verify", locked / "a", answers=[answer])

    assert typed.code == NoUsableKeyError.exit_code
    assert "that is not its passphrase" in typed.stdout


def test_nobody_is_asked_without_a_terminal(
    owner: Home, locked: Path, scratch: Path
) -> None:
    done = run_ovfuse(owner, "verify", locked / "a")
    assert done.returncode == NoUsableKeyError.exit_code
    assert "can be asked for on a terminal only" in done.stdout
    arguments = ("decrypt", locked / "a", scratch / "out")
    assert "on a terminal only" in refused(owner, NoUsableKeyError, *arguments)
    sealing = ("encrypt", "-p", locked.parent / "plain", scratch / "sealed")
    assert "there is no terminal" in refused(owner, UsageError, *sealing)
    assert not (scratch / "sealed").exists()


@pytest.mark.parametrize("answers", [["one", "another"], [""]])
def test_new_passphrase_that_will_not_do(
    home: Home, plain: Path, scratch: Path, answers: list[str]
) -> None:
    arguments = ("encrypt", "-p", plain, scratch / "sealed")
    typed = type_into(home, *arguments, answers=answers)

    assert typed.code == UsageError.exit_code
    assert not (scratch / "sealed").exists()


def test_beside_a_recipient_it_is_asked_for_only_if_needed(
    owner: Home, home: Home, locked: Path, scratch: Path
) -> None:
    succeed(home, "keygen")
    arguments = ("-r", home.recipient, locked.parent / "plain", scratch / "both")
    typed = type_into(
        owner, "encrypt", "-p", *arguments, answers=[PASSPHRASE, PASSPHRASE]
    )
    assert typed.code == 0
    succeed(home, "trust", "add", owner.public_key)
    assert type_into(home, "verify", scratch / "both").code == 0
    assert type_into(owner, "verify", scratch / "both", answers=[PASSPHRASE]).code == 0

    succeed(home, "recipients", "remove", "-p", scratch / "both")
    assert type_into(owner, "verify", scratch / "both").code == 15
    typed = type_into(
        home,
        "recipients",
        "add",
        "-p",
        scratch / "both",
        answers=["other words", "other words"],
    )
    assert (typed.code, typed.stdout) == (0, "added: the passphrase\n")
    assert (
        type_into(owner, "verify", scratch / "both", answers=["other words"]).code == 0
    )


def test_excessive_work_is_refused_before_anybody_is_asked(
    owner: Home, locked: Path, scratch: Path
) -> None:
    copy = shutil.copytree(locked / "a", scratch / "a")
    (key_file,) = key_files(copy)
    data = key_file.read_bytes()
    key_file.write_bytes(re.sub(rb"(-> scrypt \S+ )\d+", rb"\g<1>21", data))

    typed = type_into(owner, "verify", copy)
    assert typed.code == NoUsableKeyError.exit_code
    assert typed.screen == ""
    assert "ovfuse: warning: skipped" in typed.stderr
    assert "excessive scrypt work factor" in typed.stderr


def test_at_most_four_files_are_tried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publisher = Publisher.make()
    publisher.seal(write_files(tmp_path / "source"), tmp_path / "model")
    (own,) = key_files(tmp_path / "model")
    with opened(tmp_path / "model", publisher.identity) as sealing:
        data = wrap_with_passphrase(sealing.model_key, PASSPHRASE)
    for number in range(5):
        (own.parent / f"{number:032x}.age").write_bytes(data)
    tried = []
    monkeypatch.setattr(wrapped, "unwrap_with_passphrase", lambda d, _: tried.append(d))

    with (
        opening.SealedModel.open(tmp_path / "model") as model,
        model.current() as sealed,
        pytest.raises(NoUsableKeyError),
    ):
        sealed.unlock([], ScratchPool(), lambda: PASSPHRASE)
    assert tried == [data] * 4


@pytest.mark.fuse
def test_mount_asks_before_it_goes_to_the_background(
    owner: Home, locked: Path, scratch: Path
) -> None:
    mountpoint = scratch / "mnt"
    mountpoint.mkdir()
    said = refused_mount(
        owner, NoUsableKeyError, locked / "a", mountpoint, engine=ENGINES[0]
    )
    assert "on a terminal only" in said
    arguments = ("mount", locked / "a", mountpoint)
    typed = type_into(owner, *arguments, answers=["wrong"])
    assert typed.code == NoUsableKeyError.exit_code
    assert not is_mounted(mountpoint)
    typed = type_into(owner, *arguments, answers=[PASSPHRASE])
    assert typed.code == 0, typed.stderr
    try:
        assert (mountpoint / "model.xml").read_text() == "<net/>"
    finally:
        succeed(owner, "unmount", mountpoint)


@pytest.mark.fuse
def test_models_that_unlock_later_never_ask(
    owner: Home, locked: Path, scratch: Path
) -> None:
    mountpoint, log = scratch / "mnt", scratch / "log"
    mountpoint.mkdir()
    arguments = ("mount", "-o", f"log={log}", locked, mountpoint)
    typed = type_into(owner, *arguments, answers=[PASSPHRASE])
    assert typed.code == 0, typed.stderr
    try:
        assert (mountpoint / "a" / "model.xml").read_text() == "<net/>"
        with pytest.raises(PermissionError):
            (mountpoint / "b" / "model.xml").read_text()
    finally:
        succeed(owner, "unmount", mountpoint)
    assert "'b' is refused: no identity opens it" in log.read_text()

    arguments = ("mount", "-o", "strict", locked, mountpoint)
    typed = type_into(owner, *arguments, answers=[PASSPHRASE, PASSPHRASE])
    assert typed.code == 0, typed.stderr
    try:
        assert (mountpoint / "b" / "model.xml").read_text() == "<net/>"
    finally:
        succeed(owner, "unmount", mountpoint)


@pytest.mark.fuse
def test_identity_is_tried_first_by_a_mount(
    home: Home, plain: Path, scratch: Path
) -> None:
    succeed(home, "keygen")
    arguments = ("-r", home.recipient, plain, scratch / "sealed")
    answers = [PASSPHRASE, PASSPHRASE]
    assert type_into(home, "encrypt", "-p", *arguments, answers=answers).code == 0

    with mounted(home, scratch / "sealed", scratch / "mnt", engine=ENGINES[0]):
        assert (scratch / "mnt" / "model.xml").read_text() == "<net/>"
