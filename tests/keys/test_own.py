"""The own keys, made at first use and never again."""

import getpass
import socket
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from ovfuse.errors import KeyFileError
from ovfuse.keys.own import (
    own_identities,
    own_signing_key,
    read_signing_key,
    write_identity,
)
from ovfuse.keys.trusted import list_trusted, remove_trusted, trusted_keys
from ovfuse.sealed.signing import PublicKey, SigningKey
from ovfuse.sealed.wrapping import Identity
from tests.support.sealed import recipient_of


def test_identity_is_made_once(configuration: Path) -> None:
    (first,), file = own_identities()
    (second,), again = own_identities()

    assert (file.created, again.created) == (True, False)
    assert file.path == again.path == configuration / "identity.txt"
    assert recipient_of(first) == recipient_of(second)
    assert stat.S_IMODE(file.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(configuration.stat().st_mode) == 0o700


@pytest.mark.tools
def test_identity_file_is_one_of_age() -> None:
    (identity,), file = own_identities()
    result = subprocess.run(
        ["age-keygen", "-y", file.path], check=True, capture_output=True, text=True
    )

    recipient = recipient_of(identity).canonical
    assert result.stdout == f"{recipient}\n"
    created, public, _ = file.path.read_text().splitlines()
    assert created.startswith("# created: 20")
    assert public == f"# public key: {recipient}"


def test_identity_of_the_variable(
    tmp_path: Path, configuration: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = Identity.generate()
    (tmp_path / "mine").write_text(line)
    (tmp_path / "mine").chmod(0o600)
    monkeypatch.setenv("OVFUSE_IDENTITY", str(tmp_path / "mine"))
    (identity,), file = own_identities()

    assert recipient_of(identity) == recipient_of(Identity.from_age(line))
    assert (file.path, file.created) == (tmp_path / "mine", False)
    assert not configuration.exists()


def test_identity_of_the_variable_is_not_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OVFUSE_IDENTITY", str(tmp_path / "none"))

    with pytest.raises(KeyFileError, match="none': No such file"):
        own_identities()


def test_signing_key_is_made_once_and_trusted(configuration: Path) -> None:
    first, file = own_signing_key()
    second, again = own_signing_key()

    assert (file.created, again.created) == (True, False)
    assert file.path == again.path == configuration / "signing_key"
    assert first.public == second.public
    assert stat.S_IMODE(file.path.stat().st_mode) == 0o600
    assert trusted_keys() == {first.public}
    public = PublicKey.from_line((configuration / "signing_key.pub").read_text())
    assert public == first.public
    assert public.comment == list_trusted()[0].key.comment
    assert public.comment == f"{getpass.getuser()}@{socket.gethostname()}"


def test_own_key_stays_untrusted_once_it_is_removed() -> None:
    key, _ = own_signing_key()
    remove_trusted(key.public.fingerprint)
    own_signing_key()

    assert trusted_keys() == frozenset()


def test_what_was_interrupted_is_made_up_for(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(_: PublicKey) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("ovfuse.keys.own.add_trusted", interrupt)
        with pytest.raises(KeyboardInterrupt):
            own_signing_key()
    assert trusted_keys() == frozenset()
    key, file = own_signing_key()

    assert not file.created
    assert {trusted.raw for trusted in trusted_keys()} == {key.public.raw}


def test_comment_without_an_account(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown() -> str:
        raise KeyError("getpwuid(): uid not found")

    monkeypatch.setattr("ovfuse.keys.own.getpass.getuser", unknown)
    monkeypatch.setattr("ovfuse.keys.own.os.getuid", lambda: 54321)
    own_signing_key()

    assert list_trusted()[0].key.comment == f"54321@{socket.gethostname()}"


def test_comment_cannot_bring_another_key(
    configuration: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = SigningKey.generate().public
    monkeypatch.setattr(
        "ovfuse.keys.own.getpass.getuser", lambda: f"me\n{other.line}\nme"
    )
    key, _ = own_signing_key()

    assert trusted_keys() == {key.public}
    assert len((configuration / "signing_key.pub").read_text().splitlines()) == 1


@pytest.mark.parametrize("make", [own_identities, own_signing_key])
def test_no_home(make: Callable[[], object], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HOME")

    with pytest.raises(KeyFileError, match="no home directory to keep keys in"):
        make()


@pytest.mark.parametrize("make", [own_identities, own_signing_key])
def test_home_that_cannot_be_used(
    make: Callable[[], object], configuration: Path
) -> None:
    configuration.parent.mkdir(parents=True)
    configuration.write_bytes(b"a file")

    with pytest.raises(KeyFileError, match=r"(File exists|Not a directory)"):
        make()


@pytest.mark.parametrize(
    ("make", "name"),
    [(own_identities, "identity.txt"), (own_signing_key, "signing_key")],
)
@pytest.mark.parametrize("content", [b"", b"nonsense", b"\xff"])
def test_file_with_something_else_is_an_error_and_stays(
    make: Callable[[], object], name: str, content: bytes, configuration: Path
) -> None:
    configuration.mkdir(parents=True)
    (configuration / name).write_bytes(content)
    (configuration / name).chmod(0o600)

    with pytest.raises(KeyFileError, match=name):
        make()
    assert (configuration / name).read_bytes() == content


@pytest.mark.parametrize(
    ("make", "name"),
    [(own_identities, "identity.txt"), (own_signing_key, "signing_key")],
)
def test_file_that_others_can_read_is_an_error(
    make: Callable[[], object], name: str, configuration: Path
) -> None:
    make()
    (configuration / name).chmod(0o644)

    with pytest.raises(KeyFileError, match="can be used by others"):
        make()


def test_named_signing_key(tmp_path: Path) -> None:
    key = SigningKey.generate()
    (tmp_path / "key").write_bytes(key.to_openssh())
    (tmp_path / "key").chmod(0o600)

    assert read_signing_key(tmp_path / "key").public == key.public
    with pytest.raises(KeyFileError, match="none': No such file"):
        read_signing_key(tmp_path / "none")


def test_identity_for_a_device(tmp_path: Path) -> None:
    path = tmp_path / "devices" / "one.txt"
    write_identity(path)
    before = path.read_bytes()

    with pytest.raises(KeyFileError, match="exists and is not replaced"):
        write_identity(path)
    assert path.read_bytes() == before
