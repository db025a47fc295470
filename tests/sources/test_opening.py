"""Each source opens a sealed model, by command and by the loader, or says why not."""

import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pytest

import ovfuse
from ovfuse.errors import KeyFileError, NoUsableKeyError, UsageError
from ovfuse.keys.tpm2 import enrol
from ovfuse.secret import Secret
from tests.sources.conftest import (
    credentials_in,
    key_in_keyring,
    program_in,
    with_descriptor,
    with_variables,
)
from tests.support.mounting import Home, refused, run_as, succeed
from tests.support.tpm import Tpm

pytestmark = pytest.mark.tools


@dataclass(frozen=True)
class Place:
    """Where the identity is for one test.

    Attributes:
        words: behind `-i`.
        home: of who can read it there.
        break_it: damages it; and the words of the error by then.
        variables: that the process needs.
    """

    words: str
    home: Home
    break_it: Callable[[], None]
    broken: str
    variables: dict[str, str] = field(default_factory=dict)


LIST = ("recipients", "list")
KINDS = ("file", "credential", "command", "fd", "pipe", "keyring", "tpm2")


@pytest.fixture(autouse=True)
def _copied(identity: Path, scratch: Path) -> None:
    shutil.copy(identity, scratch / "copy.txt")
    (scratch / "copy.txt").chmod(0o600)


@pytest.fixture(params=KINDS)
def place(request: pytest.FixtureRequest) -> Place:
    made: Place = request.getfixturevalue(f"in_{request.param}")
    return made


def emptied(path: Path) -> None:
    path.write_bytes(b"")


@pytest.fixture
def in_file(device: Home, scratch: Path) -> Place:
    copy = scratch / "copy.txt"
    return Place(f"{copy}", device, copy.unlink, "No such file")


@pytest.fixture
def in_credential(device: Home, scratch: Path) -> Place:
    directory = credentials_in(scratch, "models", scratch / "copy.txt")
    variables = {"CREDENTIALS_DIRECTORY": f"{directory}"}
    home = with_variables(device, **variables)
    remove = (directory / "models").unlink
    return Place("credential:models", home, remove, "No such file", variables)


@pytest.fixture
def in_command(device: Home, scratch: Path) -> Place:
    program = program_in(scratch, f"cat {scratch}/copy.txt")
    remove = (scratch / "copy.txt").unlink
    return Place(f"command:{program}", device, remove, "ended with 1: 'cat: ")


@pytest.fixture
def in_fd(device: Home, scratch: Path) -> Place:
    home = with_descriptor(device, 9, scratch / "copy.txt", pipe=False)
    return Place("fd:9", home, partial(emptied, scratch / "copy.txt"), "no identity")


@pytest.fixture
def in_pipe(device: Home, scratch: Path) -> Place:
    home = with_descriptor(device, 0, scratch / "copy.txt", pipe=True)
    return Place("fd:0", home, partial(emptied, scratch / "copy.txt"), "no identity")


@pytest.fixture
def in_keyring(device: Home, scratch: Path) -> Iterator[Place]:
    name = f"ovfuse-test-{os.getpid()}"
    with key_in_keyring(name, scratch / "copy.txt") as serial:

        def remove() -> None:
            run_as(device, "keyctl", "unlink", serial, "@u")

        yield Place(f"keyring:{name}", device, remove, "no such key")


@pytest.fixture
def in_tpm2(device: Home, scratch: Path, tpm: Tpm) -> Place:
    with Secret((scratch / "copy.txt").read_bytes()) as secret:
        blob = enrol(secret, (7,), tcti=tpm.tcti)
    path = scratch / "identity.tpm2"
    path.write_bytes(blob.to_bytes())
    path.chmod(0o600)
    variables = {"TPM2TOOLS_TCTI": tpm.tcti}
    home = with_variables(device, **variables)
    return Place(f"tpm2:{path}", home, lambda: tpm.extend(7), "PCR 7 is not", variables)


def test_source_opens_a_model(place: Place, sealed: Path) -> None:
    assert "ok " in succeed(place.home, "verify", "-i", place.words, sealed)

    place.break_it()
    said = refused(place.home, KeyFileError, "verify", "-i", place.words, sealed)
    assert place.broken in said
    assert f"'{place.words.removeprefix('file:')}'" in said


def test_variable_names_a_source(place: Place, sealed: Path) -> None:
    home = with_variables(place.home, OVFUSE_IDENTITY=place.words)

    succeed(home, "verify", sealed)
    place.break_it()
    assert place.broken in refused(home, KeyFileError, "verify", sealed)


def test_source_with_another_identity(
    device: Home, sealed: Path, scratch: Path
) -> None:
    succeed(device, "keygen", "-o", scratch / "other.txt")
    words = f"command:/bin/cat {scratch / 'other.txt'}"

    said = refused(device, NoUsableKeyError, *LIST, "-i", words, sealed)
    assert "looked at 'command:/bin/cat'" in said


@pytest.mark.parametrize("text", ["", "# nothing\n", "nonsense", "\udcff\x1b[2J"])
def test_source_without_an_identity(
    device: Home, sealed: Path, scratch: Path, text: str
) -> None:
    (scratch / "x").write_bytes(text.encode("utf-8", "surrogateescape"))
    words = f"command:/bin/cat {scratch / 'x'}"

    assert "'command:/bin/cat'" in refused(
        device, KeyFileError, "verify", "-i", words, sealed
    )


def test_identity_that_is_encrypted_itself(
    device: Home, identity: Path, recipient: str, scratch: Path, sealed: Path
) -> None:
    for option in ((), ("--armor",)):
        path = scratch / "encrypted"
        words = ("age", *option, "-r", recipient, "-o", path, identity)
        assert run_as(device, *words).returncode == 0
        path.chmod(0o600)
        said = refused(device, KeyFileError, "verify", "-i", path, sealed)
        assert "is encrypted itself" in said
        assert "hint: age -d FILE | ovfuse ... -i fd:0" in said


@pytest.mark.parametrize("words", ["fd:x", "credential:a/b", "command:", "tpm2:"])
def test_words_that_name_no_source(device: Home, sealed: Path, words: str) -> None:
    refused(device, UsageError, "verify", "-i", words, sealed)
    home = with_variables(device, OVFUSE_IDENTITY=words)
    refused(home, UsageError, "verify", sealed)


def test_kind_that_is_none(device: Home, sealed: Path) -> None:
    said = refused(device, KeyFileError, "verify", "-i", "keyrnig:x", sealed)

    assert "'keyrnig:x': No such file" in said
    assert "keyrnig: is no kind of source" in said


@pytest.mark.parametrize(
    "place", [kind for kind in KINDS if kind not in {"fd", "pipe"}], indirect=True
)
def test_loader_takes_the_same(
    place: Place, sealed: Path, device: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in place.variables.items():
        monkeypatch.setenv(name, value)
    trusted = next((device.config / "trusted").iterdir())
    with ovfuse.open_model(sealed, identity=place.words, verify_keys=trusted) as model:
        assert model.read_bytes("model.xml") == b"<net/>"
    place.break_it()
    with pytest.raises(KeyFileError):
        ovfuse.open_model(sealed, identity=[place.words], verify_keys=trusted)


def test_loader_reads_a_descriptor(identity: Path, sealed: Path, device: Home) -> None:
    trusted = next((device.config / "trusted").iterdir())
    with identity.open("rb") as file:
        for _ in range(2):
            words = f"fd:{file.fileno()}"
            with ovfuse.open_model(
                sealed, identity=words, verify_keys=trusted
            ) as model:
                assert model.read_bytes("model.xml") == b"<net/>"


def test_seal_for_the_identity_of_a_source(
    identity: Path, recipient: str, plain: Path, scratch: Path
) -> None:
    """`encrypt` without -r seals for the own identity, wherever that is."""
    words = f"command:/bin/cat {identity}"
    home = with_variables(Home(directory=scratch / "home"), OVFUSE_IDENTITY=words)
    said = succeed(home, "encrypt", plain, scratch / "sealed")

    assert f"for: {recipient}\n" in said
    assert not home.identity.exists()
