"""Trusted publishers: the user's set, the system's, and what is named."""

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from ovfuse.errors import KeyFileError
from ovfuse.keys.trusted import (
    add_trusted,
    list_trusted,
    parse_public_keys,
    remove_trusted,
    trusted_directory,
    trusted_keys,
)
from ovfuse.sealed.signing import PublicKey, SigningKey


def make_key(comment: str = "") -> PublicKey:
    return SigningKey.generate(comment).public


def write_keys(path: Path, *keys: PublicKey) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{key.line}\n" for key in keys))
    path.chmod(0o644)
    return path


def test_nobody_is_trusted_at_first() -> None:
    assert trusted_keys() == frozenset()
    assert list_trusted() == []


def test_key_that_was_added(configuration: Path) -> None:
    key = make_key("his comment")
    path = add_trusted(key)

    assert trusted_keys() == {key}
    (found,) = list_trusted()
    assert (found.key.comment, found.path) == ("his comment", path)
    assert path == configuration / "trusted" / f"{key.raw.hex()[:32]}.pub"
    assert path.read_text() == f"{key.line}\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o644


def test_key_that_is_added_again(configuration: Path) -> None:
    key = make_key("first")
    add_trusted(key)
    add_trusted(PublicKey(key.raw, "second"))

    assert [trusted.key.comment for trusted in list_trusted()] == ["first"]


def test_key_of_the_system(system: Path) -> None:
    key = make_key()
    old = os.umask(0o022)
    try:
        path = add_trusted(key, system=True)
    finally:
        os.umask(old)

    assert path.parent == system / "trusted"
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o755
    assert trusted_keys() == {key}


def test_both_sets_and_named_files_add_up(
    configuration: Path, system: Path, tmp_path: Path
) -> None:
    one, two, three, four = (make_key() for _ in range(4))
    write_keys(configuration / "trusted/b.pub", one)
    write_keys(system / "trusted/a.pub", two)
    named = write_keys(tmp_path / "named", three, four)
    named.chmod(0o666)  # whoever names it answers for it

    assert trusted_keys([named]) == {one, two, three, four}
    assert [trusted.key for trusted in list_trusted()] == [one, two]


def test_only_pub_files_count(configuration: Path) -> None:
    directory = configuration / "trusted"
    write_keys(directory / "key.txt", make_key())
    write_keys(directory / "key.pub.bak", make_key())
    write_keys(directory / "sub/key.pub", make_key())

    assert trusted_keys() == frozenset()


def test_several_keys_and_comments_in_a_file(tmp_path: Path) -> None:
    one, two = make_key(), make_key()
    path = tmp_path / "keys"
    path.write_text(f"# ours\n\n{one.line}\n  # theirs\n {two.line} him\n")

    assert parse_public_keys(path) == [one, two]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no public key"),
        ("# none\n", "holds no public key"),
        ("nonsense\n", "not an ssh-ed25519 public key"),
        ("ssh-rsa AAAA\n", "not an ssh-ed25519 public key"),
        ("-----BEGIN OPENSSH PRIVATE KEY-----\n", "not an ssh-ed25519 public key"),
    ],
)
def test_file_with_something_else(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "key.pub"
    path.write_text(text)

    with pytest.raises(KeyFileError, match=f"key.pub'.*{message}"):
        parse_public_keys(path)


def test_named_file_that_is_missing(tmp_path: Path) -> None:
    with pytest.raises(KeyFileError, match=r"x.pub': No such file"):
        trusted_keys([tmp_path / "x.pub"])


@pytest.mark.parametrize("mode", [0o666, 0o622, 0o620, 0o602])
@pytest.mark.parametrize("base", ["user", "system"])
def test_file_that_others_can_write_is_an_error(
    configuration: Path, system: Path, mode: int, base: str
) -> None:
    directory = configuration if base == "user" else system
    write_keys(directory / "trusted/a.pub", make_key()).chmod(mode)

    with pytest.raises(KeyFileError, match="can be written by others"):
        trusted_keys()


def test_file_of_somebody_else_is_an_error(
    configuration: Path, give_away: Callable[[Path], None]
) -> None:
    give_away(write_keys(configuration / "trusted/a.pub", make_key()))

    with pytest.raises(KeyFileError, match="belongs to another user"):
        trusted_keys()


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_other_entry_that_is_called_so_is_an_error(
    configuration: Path, make: Callable[[Path], None]
) -> None:
    (configuration / "trusted").mkdir(parents=True)
    make(configuration / "trusted/x.pub")

    with pytest.raises(KeyFileError, match="is not a key file"):
        trusted_keys()


def test_set_that_cannot_be_read_is_skipped_with_a_word(
    configuration: Path, system: Path, caplog: pytest.LogCaptureFixture
) -> None:
    configuration.mkdir(parents=True)
    (configuration / "trusted").symlink_to("trusted")
    key = make_key()
    write_keys(system / "trusted/a.pub", key)

    assert trusted_keys() == {key}
    (record,) = caplog.records
    assert record.getMessage() == (
        f"skipped '{configuration}/trusted': Too many levels of symbolic links"
    )


def test_removed_key_is_trusted_no_more(system: Path) -> None:
    key, other = make_key(), make_key()
    paths = [add_trusted(key), add_trusted(key, system=True)]
    add_trusted(other)

    assert remove_trusted(key.fingerprint) == paths
    assert trusted_keys() == {other}
    assert not any(path.exists() for path in paths)


@pytest.mark.parametrize("fingerprint", ["", "SHA256:", "SHA256:abc", "\n"])
def test_key_that_is_not_trusted_cannot_be_removed(fingerprint: str) -> None:
    add_trusted(make_key())

    with pytest.raises(KeyFileError, match="is not trusted"):
        remove_trusted(fingerprint)
    assert len(list_trusted()) == 1


def test_file_with_other_keys_is_not_removed(configuration: Path) -> None:
    one, two = make_key(), make_key()
    write_keys(configuration / "trusted/both.pub", one, two)

    with pytest.raises(KeyFileError, match="holds other keys too; edit it"):
        remove_trusted(one.fingerprint)
    assert trusted_keys() == {one, two}


def test_file_that_says_it_twice_is_removed(configuration: Path) -> None:
    key = make_key()
    path = write_keys(configuration / "trusted/a.pub", key, key)

    assert remove_trusted(key.fingerprint) == [path]
    assert trusted_keys() == frozenset()


def test_nothing_is_removed_unless_all_can_be(configuration: Path) -> None:
    one, two = make_key(), make_key()
    first = write_keys(configuration / "trusted/a.pub", one)
    write_keys(configuration / "trusted/b.pub", one, two)

    with pytest.raises(KeyFileError):
        remove_trusted(one.fingerprint)
    assert first.exists()


def fail(*_: object, **__: object) -> None:
    raise OSError(30, "Read-only file system")


def test_set_that_cannot_be_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    key = make_key()
    add_trusted(key)

    monkeypatch.setattr(Path, "unlink", fail)
    with pytest.raises(KeyFileError, match="Read-only file system"):
        remove_trusted(key.fingerprint)
    monkeypatch.setattr(Path, "mkdir", fail)
    with pytest.raises(KeyFileError, match="Read-only file system"):
        add_trusted(make_key())


def test_no_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HOME")

    assert trusted_keys() == frozenset()
    with pytest.raises(KeyFileError, match="no home directory"):
        trusted_directory(system=False)
