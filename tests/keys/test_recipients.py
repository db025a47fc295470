"""Recipients: given as texts, in files, or the own identity's."""

from pathlib import Path

import pytest

from ovfuse.errors import KeyFileError
from ovfuse.keys.recipients import own_recipients, parse_recipients
from ovfuse.sealed.wrapping import Identity
from tests.support.sealed import make_identity, recipient_of

A, B, C = (recipient_of(make_identity()).canonical for _ in range(3))


def canonical(texts: list[str], files: list[Path]) -> list[str]:
    return [recipient.canonical for recipient in parse_recipients(texts, files)]


def test_texts_and_files_in_their_order(tmp_path: Path) -> None:
    (tmp_path / "r").write_text(f"# devices\n\n  {B}\n   # more\n{C.upper()}\n")
    (tmp_path / "r").chmod(0o666)  # it is named by the user, whoever can write it

    assert canonical([A], [tmp_path / "r"]) == [A, B, C]


def test_the_same_recipient_is_one(tmp_path: Path) -> None:
    (tmp_path / "r").write_text(f"{A}\n{B}\n")

    assert canonical([B, A.upper(), B], [tmp_path / "r"]) == [B, A]


def test_nothing_given() -> None:
    assert parse_recipients([], []) == []


@pytest.mark.parametrize("text", ["", "me\n", "AGE-SECRET-KEY-1QQ"])
def test_text_that_is_none(text: str) -> None:
    with pytest.raises(KeyFileError, match=": not a recipient") as caught:
        parse_recipients([text], [])

    assert caught.value.message.isprintable()
    assert caught.value.hint


def test_line_that_is_none_is_named(tmp_path: Path) -> None:
    (tmp_path / "r").write_text(f"# a\n{A}\nnonsense\n")

    with pytest.raises(KeyFileError, match="r' line 3: not a recipient"):
        parse_recipients([], [tmp_path / "r"])


@pytest.mark.parametrize("text", ["", "\n", "# nobody\n"])
def test_file_that_names_nobody(tmp_path: Path, text: str) -> None:
    (tmp_path / "r").write_text(text)

    with pytest.raises(KeyFileError, match="r' names no recipient"):
        parse_recipients([A], [tmp_path / "r"])


def test_file_that_is_missing(tmp_path: Path) -> None:
    with pytest.raises(KeyFileError, match="r': No such file"):
        parse_recipients([], [tmp_path / "r"])


def test_own_recipients() -> None:
    one, two = make_identity(), make_identity()

    assert own_recipients([one, two, one]) == [recipient_of(one), recipient_of(two)]


@pytest.mark.parametrize("identities", [[], [Identity(None, None)]])
def test_identity_that_does_not_know_its_recipient(identities: list[Identity]) -> None:
    with pytest.raises(KeyFileError, match="give one with -r"):
        own_recipients(identities)
