"""`passphrase:`: models that were sealed with `-p`, with and without a person."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

import ovfuse
from ovfuse.errors import KeyFileError, NoUsableKeyError, UsageError
from ovfuse.keys.sources.file import FileSource
from ovfuse.keys.sources.passphrase import PassphraseSource
from tests.sources.conftest import credentials_in, with_descriptor, with_variables
from tests.support.mounting import Home, mounted, refused, succeed
from tests.support.prompts import type_into
from tests.support.users import open_directory

LIST = ("recipients", "list")
PASSPHRASE = "correct horse of a battery that nobody guesses"


@pytest.fixture(scope="module")
def typed(shared: Path) -> Iterator[tuple[Home, Path]]:
    """Somebody without an identity, and a tree of a model that a passphrase opens."""
    with open_directory() as directory:
        (directory / "plain").mkdir()
        (directory / "plain" / "model.xml").write_text("<net/>")
        home = Home(directory=directory / "home")
        succeed(home, "keygen")
        words = ("encrypt", "-p", directory / "plain", directory / "tree" / "a")
        (directory / "tree").mkdir()
        assert type_into(home, *words, answers=[PASSPHRASE, PASSPHRASE]).code == 0
        home.identity.unlink()
        yield home, directory / "tree" / "a"


@pytest.fixture
def file(scratch: Path) -> Path:
    path = scratch / "passphrase"
    path.write_text(f"{PASSPHRASE}\n")
    path.chmod(0o600)
    return path


def test_each_source(typed: tuple[Home, Path], file: Path, scratch: Path) -> None:
    home, sealed = typed
    directory = credentials_in(scratch, "word", file)
    at = with_variables(home, CREDENTIALS_DIRECTORY=f"{directory}")
    succeed(at, "verify", "-i", "passphrase:credential:word", sealed)
    succeed(home, "verify", "-i", f"passphrase:command:/bin/cat {file}", sealed)
    at = with_descriptor(home, 0, file, pipe=True)
    succeed(at, "verify", "-i", "passphrase:fd:0", sealed)
    at = with_variables(home, OVFUSE_IDENTITY=f"passphrase:file:{file}")
    succeed(at, "verify", sealed)


def test_loader(typed: tuple[Home, Path], file: Path) -> None:
    home, sealed = typed
    words, trusted = f"passphrase:{file}", home.public_key
    with ovfuse.open_model(sealed, identity=words, verify_keys=trusted) as model:
        assert model.read_bytes("model.xml") == b"<net/>"


@pytest.mark.parametrize(
    ("data", "text"),
    [(b"x", "x"), (b"x\n", "x"), (b"x\r\n", "x"), (b" x \n\n", " x \n")],
)
def test_end_of_the_line_does_not_count(file: Path, data: bytes, text: str) -> None:
    file.write_bytes(data)

    assert PassphraseSource(FileSource(file)).text() == text


@pytest.mark.parametrize(
    ("data", "error", "words"),
    [
        (b"another one", NoUsableKeyError, "that is not its passphrase"),
        (b"\n", KeyFileError, "is empty"),
        (b"", KeyFileError, "is empty"),
        (b"\xff\n", KeyFileError, "is not UTF-8 text"),
        (None, KeyFileError, "No such file"),
    ],
)
def test_wrong_passphrase(
    typed: tuple[Home, Path],
    file: Path,
    data: bytes | None,
    error: type[KeyFileError] | type[NoUsableKeyError],
    words: str,
) -> None:
    home, sealed = typed
    if data is None:
        file.unlink()
    else:
        file.write_bytes(data)
    said = refused(home, error, *LIST, "-i", f"passphrase:{file}", sealed)

    assert words in said
    assert "another one" not in said


def test_nobody_is_asked_where_a_source_is_named(
    typed: tuple[Home, Path], file: Path
) -> None:
    """A terminal is there; a prompt would wait for an answer."""
    home, sealed = typed
    file.write_text("wrong")
    done = type_into(home, "verify", "-i", f"passphrase:{file}", sealed)

    assert done.code == NoUsableKeyError.exit_code
    assert done.screen == ""


def test_person_is_asked_once_for_all_models(typed: tuple[Home, Path]) -> None:
    home, sealed = typed
    again = sealed.parent / "b" / "a"
    if not again.exists():
        again.parent.mkdir()
        shutil.copytree(sealed, again)
    words = ("verify", "-i", "passphrase:", sealed.parent)

    done = type_into(home, *words, answers=[PASSPHRASE])
    assert done.code == 0, done.stderr
    assert done.screen.count("passphrase for") == 1


def test_person_without_a_terminal(typed: tuple[Home, Path]) -> None:
    home, sealed = typed
    said = refused(home, NoUsableKeyError, *LIST, "-i", "passphrase:", sealed)

    assert "can be asked for on a terminal only" in said


def test_one_passphrase_at_most(typed: tuple[Home, Path], file: Path) -> None:
    home, sealed = typed
    words = ("-i", f"passphrase:{file}", "-i", "passphrase:")

    assert "more than one passphrase" in refused(
        home, UsageError, "verify", *words, sealed
    )


@pytest.mark.fuse
def test_mount_finds_it_again(
    typed: tuple[Home, Path], file: Path, scratch: Path
) -> None:
    """Models that are looked into later are opened without anybody."""
    home, sealed = typed
    words = ("-i", f"passphrase:{file}", "-o", f"log={scratch / 'log'}")
    mountpoint = scratch / "mnt"
    with mounted(home, sealed, mountpoint, *words, engine="kernel") as mount:
        assert (mountpoint / "model.xml").read_text() == "<net/>"
        succeed(home, "lock", mountpoint)
        succeed(home, "unlock", mountpoint)
        assert (mountpoint / "model.xml").read_text() == "<net/>"
        succeed(home, "lock", mountpoint)
        aside = file.rename(scratch / "aside")
        assert "No such file" in refused(home, KeyFileError, "unlock", mountpoint)
        succeed(home, "unlock", "-i", f"passphrase:{aside}", mountpoint)
        assert mount.status()["state"] == "serving"
