"""Who may open a sealing that exists: added, removed, listed."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from ovfuse.errors import (
    BusyError,
    CipherdirError,
    KeyFileError,
    NoUsableKeyError,
    RollbackError,
    UntrustedError,
    UsageError,
)
from ovfuse.sealed import layout
from ovfuse.sealed.opening import SealedModel
from ovfuse.sealed.rewrap import KeyFiles
from ovfuse.sealed.sealer import CipherdirWriter
from tests.cli.conftest import key_files, seal_directory, unverified
from tests.support.mounting import Home, refused, run_ovfuse, succeed
from tests.support.sealed import Publisher, opened, write_files


@pytest.fixture
def sealed(home: Home, plain: Path, scratch: Path) -> Path:
    succeed(home, "encrypt", plain, scratch / "sealed")
    return scratch / "sealed"


@pytest.fixture
def friend(home: Home, sealed: Path, scratch: Path) -> Home:
    """Somebody with an identity who trusts the publisher."""
    friend = Home(directory=scratch / "friend")
    succeed(friend, "keygen")
    succeed(friend, "trust", "add", home.public_key)
    return friend


def listed(home: Home, cipherdir: Path, *arguments: str) -> list[dict[str, Any]]:
    found = json.loads(
        succeed(home, "recipients", "list", "--json", *arguments, cipherdir)
    )["key_files"]
    assert isinstance(found, list)
    return found


def test_added_one_opens_it_and_removed_one_no_longer(
    home: Home, friend: Home, sealed: Path
) -> None:
    unverified(friend, NoUsableKeyError, sealed)
    envelope = (seal_directory(sealed) / "manifest.dsse.json").read_bytes()
    recipient = ("-r", friend.recipient)
    assert succeed(home, "recipients", "add", *recipient, sealed) == (
        f"added: {friend.recipient}\n"
    )
    succeed(friend, "verify", sealed)
    assert len(key_files(sealed)) == 2

    done = run_ovfuse(home, "recipients", "remove", *recipient, sealed)
    assert done.returncode == 0
    assert done.stdout == f"removed: {friend.recipient}\n"
    assert "could open this sealing and may have kept its key" in done.stderr
    unverified(friend, NoUsableKeyError, sealed)
    succeed(home, "verify", sealed)
    assert (seal_directory(sealed) / "manifest.dsse.json").read_bytes() == envelope


def test_next_sealing_starts_from_its_own(
    home: Home, friend: Home, plain: Path, sealed: Path
) -> None:
    succeed(home, "recipients", "add", "-r", friend.recipient, sealed)
    succeed(home, "encrypt", plain, sealed)

    assert [one["recipient"] for one in listed(home, sealed)] == [home.recipient]


def test_adding_again_replaces(home: Home, sealed: Path) -> None:
    (before,) = key_files(sealed)
    data = before.read_bytes()
    succeed(home, "recipients", "add", "-r", home.recipient, sealed)

    assert key_files(sealed) == [before]
    assert before.read_bytes() != data
    succeed(home, "verify", sealed)


def test_files_of_recipients_are_taken(
    home: Home, friend: Home, sealed: Path, scratch: Path
) -> None:
    (scratch / "list").write_text(f"# us\n{friend.recipient}\n")
    succeed(home, "recipients", "add", "-R", scratch / "list", sealed)
    succeed(friend, "recipients", "remove", "-r", home.recipient, sealed)

    assert [one["recipient"] for one in listed(friend, sealed)] == [friend.recipient]


def test_list_names_only_those_that_are_known(
    home: Home, friend: Home, sealed: Path
) -> None:
    succeed(home, "recipients", "add", "-r", friend.recipient, sealed)

    names = {one["recipient"] for one in listed(home, sealed)}
    assert names == {home.recipient, ""}
    names = {one["recipient"] for one in listed(home, sealed, "-r", friend.recipient)}
    assert names == {home.recipient, friend.recipient}
    text = succeed(home, "recipients", "list", sealed)
    assert sorted(line.split()[:2] for line in text.splitlines()) == sorted(
        [[home.recipient, "(X25519)"], ["unknown", "(X25519)"]]
    )


def test_removing_is_all_or_nothing(home: Home, friend: Home, sealed: Path) -> None:
    succeed(home, "recipients", "add", "-r", friend.recipient, sealed)
    before = key_files(sealed)
    stranger = "age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p"
    all_of_us = ("-r", home.recipient, "-r", friend.recipient)
    said = refused(home, UsageError, "recipients", "remove", *all_of_us, sealed)
    assert "nobody could open it" in said
    some = ("-r", friend.recipient, "-r", stranger)
    said = refused(home, UsageError, "recipients", "remove", *some, sealed)
    assert stranger in said
    said = refused(home, UsageError, "recipients", "remove", "-p", sealed)
    assert "'passphrase' is not among" in said

    assert key_files(sealed) == before


def test_rubbish_does_not_count_as_a_recipient(home: Home, sealed: Path) -> None:
    (key_file,) = key_files(sealed)
    (key_file.parent / f"{'0' * 32}.age").write_bytes(b"rubbish")
    (key_file.parent / "notes.age").write_bytes(key_file.read_bytes())

    done = run_ovfuse(home, "recipients", "remove", "-r", home.recipient, sealed)
    assert done.returncode == UsageError.exit_code
    assert key_file.exists()


@pytest.mark.parametrize("command", ["add", "remove"])
def test_somebody_must_be_named(home: Home, sealed: Path, command: str) -> None:
    refused(home, UsageError, "recipients", command, sealed)
    refused(home, KeyFileError, "recipients", command, "-r", "nobody", sealed)


@pytest.mark.parametrize("command", ["add", "remove", "list"])
def test_identity_and_trust_are_needed(
    home: Home, friend: Home, sealed: Path, scratch: Path, command: str
) -> None:
    who = ("-r", friend.recipient)
    refused(friend, NoUsableKeyError, "recipients", command, *who, sealed)
    stranger = Home(directory=scratch / "stranger")
    mine = ("-i", home.identity)
    refused(stranger, UntrustedError, "recipients", command, *mine, *who, sealed)

    assert len(key_files(sealed)) == 1


def test_terms_are_about_use_only(
    home: Home, friend: Home, plain: Path, scratch: Path
) -> None:
    machine = ("--machine", "0" * 64)
    succeed(home, "encrypt", *machine, plain, scratch / "elsewhere")

    succeed(home, "recipients", "add", "-r", friend.recipient, scratch / "elsewhere")


def test_older_sealing_is_refused(
    home: Home, plain: Path, sealed: Path, scratch: Path
) -> None:
    shutil.copytree(sealed, scratch / "old")
    succeed(home, "encrypt", plain, sealed)
    shutil.rmtree(sealed)
    shutil.copytree(scratch / "old", sealed)

    refused(home, RollbackError, "recipients", "list", sealed)


def test_places_without_a_sealed_model(home: Home, sealed: Path, scratch: Path) -> None:
    (scratch / "empty").mkdir()
    for place in ("empty", "none", "."):
        refused(home, CipherdirError, "recipients", "list", scratch / place)
    with CipherdirWriter.open(sealed):
        refused(home, BusyError, "recipients", "list", sealed)


def test_rest_of_a_killed_command_is_cleaned_up(home: Home, sealed: Path) -> None:
    (key_file,) = key_files(sealed)
    rest = key_file.parent / "new.0123456789abcdef"
    rest.write_bytes(b"half a key fi")
    succeed(home, "verify", sealed)
    succeed(home, "recipients", "list", sealed)

    assert key_files(sealed) == [key_file]


def test_there_are_never_more_than_readers_take(tmp_path: Path) -> None:
    publisher = Publisher.make()
    publisher.seal(write_files(tmp_path / "source"), tmp_path / "model")
    keys = seal_directory(tmp_path / "model") / "keys"
    for number in range(layout.KEY_FILES_MAX - 2):
        (keys / f"{number:032x}.age").touch()
    with (
        SealedModel.open(tmp_path / "model") as model,
        model.current() as locked,
        opened(tmp_path / "model", publisher.identity) as sealing,
    ):
        files = KeyFiles(locked, sealing.model_key)
        with pytest.raises(UsageError, match="more than 1023"):
            files.put("somebody", b"")
        files.put(publisher.recipient.canonical, b"")
        files.close()

    assert len(list(keys.iterdir())) == layout.KEY_FILES_MAX - 1
