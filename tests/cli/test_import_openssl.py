"""`import-openssl`: what the published example made is sealed, or nothing is done."""

import os
import random
import signal
from pathlib import Path

import pytest

from ovfuse.cli import import_openssl
from ovfuse.errors import (
    KeyFileError,
    NoUsableKeyError,
    OvfuseError,
    SourceError,
    UsageError,
)
from ovfuse.keys.openssl import KEY_SIZES
from ovfuse.sealed.openssl import DIGESTS
from tests.cli.conftest import inspected, snapshot
from tests.support.mounting import Home, refused, run_ovfuse, start_ovfuse, succeed
from tests.support.openssl import (
    PUBLISHED_KEY,
    PUBLISHED_NAMES,
    encrypt,
    encrypt_with_password,
    secret_file,
)
from tests.support.waiting import wait_until

pytestmark = pytest.mark.tools

XML = b"""<?xml version="1.0"?><net><layers><layer type="Const">
<data offset="16" size="1024000"/></layer></layers></net>"""
FILES = {
    "openvino_model.xml": XML,
    "openvino_model.bin": random.Random(1).randbytes(1_024_016),
}
PASSWORD = "correct horse battery staple"


@pytest.fixture
def plain(scratch: Path) -> Path:
    """An IR with the names of the published example."""
    directory = scratch / "plain"
    directory.mkdir()
    for name, data in FILES.items():
        (directory / name).write_bytes(data)
    return directory


@pytest.fixture
def source(scratch: Path, plain: Path) -> Path:
    """The IR as the published example encrypts it."""
    directory = scratch / "source"
    directory.mkdir()
    for name, encrypted in PUBLISHED_NAMES.items():
        encrypt(plain / name, directory / encrypted)
    return directory


@pytest.fixture
def key(scratch: Path) -> Path:
    return secret_file(scratch / "key", f"{PUBLISHED_KEY}\n")


@pytest.fixture
def options(key: Path) -> tuple[str | Path, ...]:
    """Key and IV are the same in the published example."""
    return ("import-openssl", "--key-file", key, "--iv-file", key)


def test_digests_are_those_that_are_known() -> None:
    assert [digest.value for digest in import_openssl._Digest] == [*DIGESTS]
    assert {cipher.value for cipher in import_openssl._Cipher} == KEY_SIZES.keys()


def test_published_example(
    home: Home, source: Path, options: tuple[str | Path, ...], scratch: Path
) -> None:
    said = succeed(home, *options, source, scratch / "sealed")
    succeed(home, "decrypt", scratch / "sealed", scratch / "out")

    assert "'sealed' version 1" in said
    assert "2 files" in said
    assert snapshot(scratch / "out") == FILES
    assert "version 2" in succeed(home, *options, source, scratch / "sealed")


def test_options_of_encrypt(
    home: Home, source: Path, options: tuple[str | Path, ...], scratch: Path
) -> None:
    other = Home(directory=scratch / "other")
    succeed(other, "keygen")
    sealed = scratch / "sealed"
    more = ("--recipient", other.recipient, "--name", "a/sealed", "--new-model")
    terms = ("--not-before", "2020-01-01", "--not-after", "2099-01-01")
    signed = ("--sign-key", other.config / "signing_key")
    succeed(home, *options, *more, *terms, *signed, source, sealed)

    assert "'a/sealed' version 1" in succeed(other, "verify", sealed)
    (signature,) = inspected(home, sealed)["signatures"]
    listed = succeed(other, "trust", "list")
    assert signature["fingerprint"] in listed
    recipients = scratch / "recipients"
    recipients.write_text(f"{other.recipient}\n")
    arguments = ("-R", recipients, "--machine", "0" * 64)
    succeed(home, *options, *arguments, source, scratch / "second")


def test_names_and_plain_files(
    home: Home, source: Path, options: tuple[str | Path, ...], scratch: Path
) -> None:
    (source / "labels.txt").write_text("cat\ndog\n")
    names = (
        *("--map", "openvino_model_enc.xml=model.xml"),
        *("--map", "openvino_model_enc.bin=model.bin"),
    )
    sealed = scratch / "sealed"
    refused(home, SourceError, *options, *names, source, sealed)
    succeed(home, *options, *names, "--plain", "*.txt", source, sealed)
    succeed(home, "decrypt", sealed, scratch / "out")

    assert {path.name for path in (scratch / "out").iterdir()} == {
        *("model.xml", "model.bin", "labels.txt"),
    }


def test_password(home: Home, plain: Path, scratch: Path) -> None:
    source, sealed = scratch / "source", scratch / "sealed"
    source.mkdir()
    file = secret_file(scratch / "password", PASSWORD)
    for name in FILES:
        encrypt_with_password(
            plain / name, source / f"{name}.enc", file, "-aes-256-cbc"
        )
    command = ("import-openssl", "--password-file", file)
    for wrong in (
        ("--cipher", "aes-128-cbc"),
        ("--md", "sha512"),
        ("--iter", "10001"),
    ):
        refused(home, NoUsableKeyError, *command, *wrong, source, sealed)
    succeed(home, *command, source, sealed)
    defaults = ("--cipher", "aes-256-cbc", "--md", "sha256", "--iter", "10000")
    succeed(home, *command, *defaults, source, sealed)
    succeed(home, "decrypt", sealed, scratch / "out")

    assert snapshot(scratch / "out") == FILES


@pytest.mark.parametrize("first", [True, False])
def test_wrong_key_leaves_what_was_there(
    home: Home,
    source: Path,
    options: tuple[str | Path, ...],
    scratch: Path,
    first: bool,
) -> None:
    sealed = scratch / "sealed"
    if not first:
        succeed(home, *options, source, sealed)
    before = snapshot(scratch / "sealed") if not first else None
    numbers = random.Random(1)
    for _ in range(3):
        wrong = secret_file(scratch / "wrong", numbers.randbytes(16))
        for key_file, iv_file in ((wrong, options[-1]), (options[-1], wrong)):
            given = ("--key-file", key_file, "--iv-file", iv_file)
            refused(home, NoUsableKeyError, "import-openssl", *given, source, sealed)

    assert sealed.exists() != first
    assert first or snapshot(sealed) == before


DAMAGE: dict[str, tuple[type[OvfuseError], bytes | None]] = {
    "empty": (SourceError, b""),
    "no whole block": (SourceError, bytes(1_000_001)),
    "garbage": (NoUsableKeyError, random.Random(2).randbytes(1_024_000)),
    "cut": (NoUsableKeyError, None),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_damage_leaves_nothing(
    home: Home,
    source: Path,
    options: tuple[str | Path, ...],
    scratch: Path,
    case: str,
) -> None:
    error, data = DAMAGE[case]
    for name in PUBLISHED_NAMES.values():
        whole = (source / name).read_bytes()
        (source / name).write_bytes(whole[:-16] if data is None else data)
        said = refused(home, error, *options, source, scratch / "sealed")
        (source / name).write_bytes(whole)

        assert f"'{name}'" in said
        assert not (scratch / "sealed").exists()


def test_weights_alone_prove_nothing(
    home: Home, source: Path, options: tuple[str | Path, ...], scratch: Path
) -> None:
    (source / PUBLISHED_NAMES["openvino_model.xml"]).unlink()
    refused(home, SourceError, *options, source, scratch / "sealed")

    assert not (scratch / "sealed").exists()


def test_padding_alone_is_warned_about(
    home: Home, plain: Path, options: tuple[str | Path, ...], scratch: Path
) -> None:
    source = scratch / "source"
    source.mkdir()
    encrypt(plain / "openvino_model.bin", source / "model_enc.blob")
    done = run_ovfuse(home, *options, source, scratch / "sealed")

    assert done.returncode == 0
    assert "one wrong key in 256" in done.stderr


WRONG_CALLS = {
    "no key": "SRC OUT",
    "no IV": "--key-file KEY SRC OUT",
    "IV alone": "--iv-file KEY SRC OUT",
    "key and password": "--key-file KEY --iv-file KEY --password-file KEY SRC OUT",
    "password and IV": "--password-file KEY --iv-file KEY SRC OUT",
    "key and cipher": "--key-file KEY --iv-file KEY --cipher aes-128-cbc SRC OUT",
    "key and iterations": "--key-file KEY --iv-file KEY --iter 1 SRC OUT",
    "key and digest": "--key-file KEY --iv-file KEY --md sha256 SRC OUT",
    "no iterations": "--password-file KEY --iter 0 SRC OUT",
    "unknown digest": "--password-file KEY --md md5 SRC OUT",
    "unknown cipher": "--password-file KEY --cipher aes-128-gcm SRC OUT",
    "no name": "--key-file KEY --iv-file KEY --map a= SRC OUT",
    "no equals sign": "--key-file KEY --iv-file KEY --map a SRC OUT",
    "name of no file": "--key-file KEY --iv-file KEY --map a=b SRC OUT",
    "one file twice": "--key-file KEY --iv-file KEY --map a=b --map a=c SRC OUT",
}


@pytest.mark.parametrize("case", WRONG_CALLS)
def test_wrong_calls(
    home: Home, source: Path, key: Path, scratch: Path, case: str
) -> None:
    words = {"SRC": source, "OUT": scratch / "sealed", "KEY": key}
    command = [words.get(word, word) for word in WRONG_CALLS[case].split()]
    refused(home, UsageError, "import-openssl", *command)

    assert not (scratch / "sealed").exists()


def test_key_file_that_must_not_be_used(
    home: Home,
    source: Path,
    key: Path,
    options: tuple[str | Path, ...],
    scratch: Path,
) -> None:
    key.chmod(0o644)
    assert "chmod 600" in refused(
        home, KeyFileError, *options, source, scratch / "sealed"
    )
    secret_file(key, PUBLISHED_KEY[:-1])
    said = refused(home, KeyFileError, *options, source, scratch / "sealed")
    assert PUBLISHED_KEY[:-1] not in said
    key.unlink()
    refused(home, KeyFileError, *options, source, scratch / "sealed")

    assert not home.identity.exists()


def test_source_that_is_missing_or_around(
    home: Home, source: Path, options: tuple[str | Path, ...], scratch: Path
) -> None:
    refused(home, SourceError, *options, scratch / "none", scratch / "sealed")
    refused(home, SourceError, *options, source, source / "sealed")
    refused(home, SourceError, *options, source / "a.xml", scratch / "sealed")

    assert not (scratch / "sealed").exists()


def test_interrupted_import_leaves_the_old_model(
    home: Home, plain: Path, options: tuple[str | Path, ...], scratch: Path
) -> None:
    source, sealed = scratch / "source", scratch / "sealed"
    succeed(home, "encrypt", plain, sealed)
    before = snapshot(sealed)
    source.mkdir()
    encrypt(Path(os.devnull), scratch / "padding")
    with (source / "huge.blob").open("wb") as file:  # nobody waits for its end
        file.seek(16 << 30)
        # What stands before the last block is to it what the IV is to the first.
        file.write(bytes.fromhex(PUBLISHED_KEY) + (scratch / "padding").read_bytes())

    process = start_ovfuse(home, *options, source, sealed)
    wait_until(
        lambda: (
            process.poll() is not None
            or any(path.stat().st_size > 1 << 23 for path in sealed.rglob("objects/*"))
        )
    )
    process.send_signal(signal.SIGINT)
    _, said = process.communicate()
    assert process.returncode == 130
    assert said.endswith("ovfuse: error: interrupted\n")
    assert snapshot(sealed) == before
