"""Identities: which places, in which order, and what a file may hold."""

from collections.abc import Callable
from pathlib import Path

import pytest

from ovfuse.errors import KeyFileError
from ovfuse.keys.identities import find_identities, parse_identities
from ovfuse.sealed.wrapping import Identity
from tests.sealed.test_signing import make_ssh_key
from tests.support.sealed import recipient_of

NAMES = ("variable", "credential", "user", "system", "explicit")


@pytest.fixture
def places(
    configuration: Path, system: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> dict[str, Path]:
    """Return all places by name; each holds an identity, and all are in use."""
    credentials = tmp_path / "credentials"
    monkeypatch.setenv("OVFUSE_IDENTITY", str(tmp_path / "variable"))
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(credentials))
    found = {
        "variable": tmp_path / "variable",
        "credential": credentials / "ovfuse.identity",
        "user": configuration / "identity.txt",
        "system": system / "identity.txt",
        "explicit": tmp_path / "explicit",
    }
    for path in found.values():
        write_identity_file(path)
    return found


def write_identity_file(path: Path, count: int = 1) -> list[str]:
    """Write new identities; return their recipients."""
    lines = [Identity.generate() for _ in range(count)]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in lines))
    path.chmod(0o600)
    return [recipient_of(Identity.from_age(line)).canonical for line in lines]


def recipients(identities: list[Identity]) -> list[str]:
    return [recipient_of(identity).canonical for identity in identities]


def recipient_in(path: Path) -> str:
    return recipient_of(Identity.from_age(path.read_text())).canonical


def test_all_default_places_in_their_order(places: dict[str, Path]) -> None:
    found = find_identities()

    expected = [places[name] for name in NAMES[:4]]
    assert recipients(found.identities) == [recipient_in(path) for path in expected]
    assert found.places == tuple(f"'{path}'" for path in expected)
    assert found.files == (places["variable"], places["user"], places["system"])


def test_explicit_places_are_the_only_ones(places: dict[str, Path]) -> None:
    explicit = [places["explicit"], places["system"]]
    found = find_identities(explicit)

    assert recipients(found.identities) == [recipient_in(path) for path in explicit]
    assert found.files == tuple(explicit)


@pytest.mark.parametrize("name", ["credential", "user", "system"])
def test_default_place_that_is_missing_is_skipped_and_listed(
    places: dict[str, Path], name: str
) -> None:
    places[name].unlink()
    found = find_identities()

    assert len(found.identities) == 3
    assert f"'{places[name]}' (No such file or directory)" in found.places


@pytest.mark.parametrize("name", ["credential", "user", "system"])
def test_default_place_that_cannot_be_read_is_skipped_and_listed(
    places: dict[str, Path], name: str
) -> None:
    places[name].unlink()
    places[name].symlink_to(places[name].name)
    found = find_identities()

    assert len(found.identities) == 3
    expected = f"'{places[name]}' (Too many levels of symbolic links)"
    assert expected in found.places


def test_no_identity_anywhere(configuration: Path, system: Path) -> None:
    found = find_identities()

    assert found.identities == []
    assert found.files == ()
    assert found.places == (
        f"'{configuration}/identity.txt' (No such file or directory)",
        f"'{system}/identity.txt' (No such file or directory)",
    )


def test_no_home(system: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HOME")

    assert len(find_identities().places) == 1


def test_variable_must_name_a_file(
    places: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    places["variable"].unlink()

    with pytest.raises(KeyFileError, match="variable': No such file"):
        find_identities()


def test_explicit_place_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(KeyFileError, match="none': No such file"):
        find_identities([tmp_path / "none"])


@pytest.mark.parametrize("name", ["variable", "user", "system"])
def test_place_that_others_can_read_is_an_error(
    places: dict[str, Path], name: str
) -> None:
    places[name].chmod(0o640)

    with pytest.raises(KeyFileError, match="can be used by others"):
        find_identities()


@pytest.mark.parametrize("name", ["variable", "user", "system"])
def test_place_of_somebody_else_is_an_error(
    places: dict[str, Path], name: str, give_away: Callable[[Path], None]
) -> None:
    for other in {"variable", "user", "system"} - {name}:
        if other != "variable":
            places[other].unlink()
    give_away(places[name])

    with pytest.raises(KeyFileError, match="belongs to another user"):
        find_identities()


def test_explicit_place_that_others_can_read_is_an_error(
    places: dict[str, Path],
) -> None:
    places["explicit"].chmod(0o644)

    with pytest.raises(KeyFileError, match="can be used by others"):
        find_identities([places["explicit"]])


def test_credential_is_taken_as_systemd_made_it(
    places: dict[str, Path], give_away: Callable[[Path], None]
) -> None:
    for name in ("user", "system"):
        places[name].unlink()
    places["credential"].chmod(0o440)

    assert recipient_in(places["credential"]) in recipients(
        find_identities().identities
    )


def test_file_with_several_identities_and_comments(tmp_path: Path) -> None:
    first, second = Identity.generate(), Identity.generate()
    text = f"# created\n\n{first}\r\n  # indented\n\t{second}  \n\n"

    assert recipients(parse_identities(text.encode(), tmp_path)) == recipients(
        [Identity.from_age(first), Identity.from_age(second)]
    )


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "holds no identity"),
        (b"# only a comment\n", "holds no identity"),
        (b"\xff", "is not an identity file"),
        (b"age1abc\n", "not an age identity"),
        (b"AGE-SECRET-KEY-1ABC\n", "not an age identity"),
        (b"AGE-PLUGIN-TPM-1QQ\n", "not an age identity"),
        (b"-----BEGIN CERTIFICATE-----\n", "not an SSH private key"),
        (b"-----BEGIN OPENSSH PRIVATE KEY-----\n\xff", "not an SSH private key"),
    ],
)
def test_file_with_something_else(data: bytes, message: str) -> None:
    with pytest.raises(KeyFileError, match=f"'a\\\\nb'.*{message}") as caught:
        parse_identities(data, Path("a\nb"))

    assert "SECRET" not in caught.value.message


def test_one_bad_line_spoils_the_file() -> None:
    text = f"{Identity.generate()}\nnonsense\n"

    with pytest.raises(KeyFileError):
        parse_identities(text.encode(), Path("x"))


@pytest.mark.tools
def test_ssh_key(tmp_path: Path) -> None:
    make_ssh_key(tmp_path / "key")
    (identity,) = find_identities([tmp_path / "key"]).identities

    assert identity.recipient is None


@pytest.mark.tools
def test_ssh_key_with_a_passphrase(tmp_path: Path) -> None:
    make_ssh_key(tmp_path / "key", passphrase="secret")

    with pytest.raises(KeyFileError, match="not an SSH private key that age can use"):
        find_identities([tmp_path / "key"])
