"""`verify` and `inspect`: every file its line, every fault its code."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from ovfuse.errors import (
    CipherdirError,
    DamagedError,
    KeyFileError,
    NoUsableKeyError,
    UntrustedError,
)
from tests.cli.conftest import inspected, key_files, seal_directory, unverified
from tests.support.mounting import (
    Home,
    check_error_lines,
    refused,
    run_ovfuse,
    succeed,
)


@pytest.fixture
def sealed(home: Home, plain: Path, scratch: Path) -> Path:
    """The model directory, sealed."""
    succeed(home, "encrypt", plain, scratch / "sealed")
    return scratch / "sealed"


def flip(path: Path, offset: int) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= 1
    path.write_bytes(data)


def largest_object(cipherdir: Path) -> Path:
    objects = (seal_directory(cipherdir) / "objects").iterdir()
    return max(objects, key=lambda path: path.stat().st_size)


def verified(home: Home, cipherdir: Path, code: int = 0) -> list[dict[str, Any]]:
    """Return the models of `verify --json`, which ends with this code."""
    done = run_ovfuse(home, "verify", "--json", cipherdir)
    assert done.returncode == code
    if code:
        check_error_lines(done.stderr)
    models = json.loads(done.stdout)["models"]
    assert isinstance(models, list)
    return models


def test_whole_model_has_a_line_per_file(home: Home, sealed: Path) -> None:
    lines = succeed(home, "verify", sealed).splitlines()

    for path in ("model.bin", "model.xml", "sub/labels.txt"):
        assert f"ok     '{path}'" in lines
    assert any("'sealed' version 1" in line for line in lines)
    (model,) = verified(home, sealed)
    assert (model["name"], model["version"], model["path"]) == ("sealed", 1, "")
    assert {(file["path"], file["size"], file["ok"]) for file in model["files"]} == {
        ("model.bin", 256 * 800, True),
        ("model.xml", 6, True),
        ("sub/labels.txt", 8, True),
    }


@pytest.mark.parametrize("offset", [0, 30, 56, 65655, 65656, 150_000, -1])
def test_flipped_byte_fails_its_file_alone(
    home: Home, sealed: Path, offset: int
) -> None:
    flip(largest_object(sealed), offset)
    done = run_ovfuse(home, "verify", sealed)

    assert done.returncode == DamagedError.exit_code
    check_error_lines(done.stderr)
    lines = done.stdout.splitlines()
    assert any(line.startswith("FAILED 'model.bin': ") for line in lines)
    assert "ok     'model.xml'" in lines
    (model,) = verified(home, sealed, DamagedError.exit_code)
    assert {file["path"]: file["ok"] for file in model["files"]} == {
        "model.bin": False,
        "model.xml": True,
        "sub/labels.txt": True,
    }


def test_missing_and_truncated_objects_fail(home: Home, sealed: Path) -> None:
    objects = sorted((seal_directory(sealed) / "objects").iterdir())
    objects[0].unlink()
    os.truncate(objects[1], objects[1].stat().st_size - 1)

    (model,) = verified(home, sealed, DamagedError.exit_code)
    assert sorted(file["ok"] for file in model["files"]) == [False, False, True]


def test_faults_of_the_whole_model(home: Home, sealed: Path, scratch: Path) -> None:
    shutil.copytree(sealed, scratch / "copy")
    flip(seal_directory(sealed) / "manifest.dsse.json", 900)
    (model,) = verified(home, sealed, DamagedError.exit_code)
    assert model["error"]
    assert model["files"] == []

    device = Home(directory=scratch / "device")
    (model,) = verified(device, scratch / "copy", UntrustedError.exit_code)
    assert "SHA256:" in model["error"]
    succeed(device, "trust", "add", home.public_key)
    (model,) = verified(device, scratch / "copy", NoUsableKeyError.exit_code)
    assert "no identity" in model["error"]
    refused(home, KeyFileError, "verify", "-i", scratch / "none", scratch / "copy")


def test_untrusted_model_can_be_verified_if_one_insists(
    home: Home, sealed: Path, scratch: Path
) -> None:
    device = Home(directory=scratch / "device")
    identity = ("-i", home.identity)
    unverified(device, UntrustedError, *identity, sealed)

    options = (*identity, "--allow-untrusted")
    assert "version 1" in succeed(device, "verify", *options, sealed)


def test_tree_is_verified_model_by_model(
    home: Home, plain: Path, scratch: Path
) -> None:
    (scratch / "tree" / "b").mkdir(parents=True)
    for name in ("a", "b/c", "d"):
        succeed(home, "encrypt", plain, scratch / "tree" / name)
    flip(largest_object(scratch / "tree" / "b" / "c"), 1000)
    (scratch / "tree" / "d").rename(scratch / "tree" / "e")

    done = run_ovfuse(home, "verify", scratch / "tree")
    assert done.returncode == DamagedError.exit_code
    check_error_lines(done.stderr)
    models = verified(home, scratch / "tree", DamagedError.exit_code)
    assert [model["path"] for model in models] == ["a", "b/c", "e"]
    good = [all(f["ok"] for f in model["files"]) for model in models]
    assert good[:2] == [True, False]
    assert "'d'" in models[2]["error"]


def test_sealing_before_that_is_not_the_one_named_is_a_finding(
    home: Home, plain: Path, sealed: Path
) -> None:
    first = seal_directory(sealed)
    succeed(home, "encrypt", plain, sealed)
    (model,) = verified(home, sealed)
    assert model["finding"] == ""
    shutil.rmtree(first)
    shutil.copytree(seal_directory(sealed), first)

    (model,) = verified(home, sealed)
    assert "the sealing before this one" in model["finding"]
    assert "the sealing before this one" in succeed(home, "verify", sealed)


@pytest.mark.parametrize("command", ["verify", "inspect"])
@pytest.mark.parametrize("kind", ["none", "plain", "empty", "plain/model.xml"])
def test_what_holds_no_sealed_model(
    home: Home, plain: Path, scratch: Path, command: str, kind: str
) -> None:
    (scratch / "empty").mkdir()
    refused(home, CipherdirError, command, scratch / kind)


def test_names_in_a_model_do_not_steer_the_terminal(home: Home, scratch: Path) -> None:
    evil = "\x1b[31m\r\n\x07\u202e\x9b evil"
    plain = scratch / "plain"
    (plain / evil).mkdir(parents=True)
    (plain / evil / evil).write_text("x")
    sealed = scratch / evil
    texts = []
    for command in (
        ("encrypt", "--name", evil, plain, sealed),
        ("encrypt", "--name", "other", plain, sealed),
        ("verify", sealed),
        ("inspect", sealed),
        ("inspect", scratch / evil / evil),
        ("trust", "add", scratch / evil),
        ("keygen", "-o", scratch / evil),
        ("unmount", scratch / evil),
        ("mount", scratch / evil / evil, scratch / evil / evil),
        ("encrypt", "-r", evil, plain, sealed),
        ("encrypt", "--not-after", evil, plain, sealed),
    ):
        done = run_ovfuse(home, *command)
        texts += [done.stdout, done.stderr]
    flip(largest_object(sealed), 60)
    done = run_ovfuse(home, "verify", sealed)
    texts += [done.stdout, done.stderr]

    assert f"FAILED '{EVIL}/{EVIL}'" in done.stdout
    for text in texts:
        assert text.replace("\n", "").isprintable()


EVIL = r"\x1b[31m\r\n\x07\u202e\x9b evil"


def test_inspect_needs_no_key(home: Home, sealed: Path, scratch: Path) -> None:
    mine = inspected(home, sealed)
    theirs = inspected(Home(directory=scratch / "nobody"), sealed)

    assert (mine["format"], mine["version"], mine["verified"]) == (1, 1, False)
    assert [signature["trusted"] for signature in mine["signatures"]] == [True]
    assert [signature["trusted"] for signature in theirs["signatures"]] == [False]
    assert mine | {"signatures": 0} == theirs | {"signatures": 0}
    text = succeed(home, "inspect", sealed)
    for fact in ("seal_id", "model_id"):
        assert mine[fact] in text
    assert "(trusted)" in text
    assert "key files: 1 (X25519)" in text
    assert not any(name in text for name in ("model.bin", "model.xml", "labels"))


def test_inspect_of_a_tree_tells_what_it_can(
    home: Home, plain: Path, scratch: Path
) -> None:
    (scratch / "tree").mkdir()
    for name in ("a", "b"):
        succeed(home, "encrypt", plain, scratch / "tree" / name)
    (scratch / "tree" / "a" / "model.ovfuse").write_text("rubbish")
    done = run_ovfuse(home, "inspect", "--json", scratch / "tree")

    assert done.returncode == DamagedError.exit_code
    check_error_lines(done.stderr)
    broken, whole = json.loads(done.stdout)["models"]
    assert "pointer" in broken["error"]
    assert (whole["path"], whole["version"]) == ("b", 1)


def test_key_files_that_are_rubbish_do_no_harm(home: Home, sealed: Path) -> None:
    (key_file,) = key_files(sealed)
    (key_file.parent / f"{'0' * 32}.age").write_bytes(b"rubbish")
    (key_file.parent / f"{'1' * 32}.age").write_bytes(key_file.read_bytes()[:-1])
    (key_file.parent / f"{'2' * 32}.age").mkdir()
    (key_file.parent / f"{'3' * 32}.age").symlink_to(key_file)
    (key_file.parent / "notes.txt").write_text("rubbish")
    os.mkfifo(key_file.parent / f"{'4' * 32}.age")

    assert "version 1" in succeed(home, "verify", sealed)
    assert len(inspected(home, sealed)["key_files"]) == 2
