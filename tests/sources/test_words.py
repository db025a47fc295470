"""What may follow `-i`: which source it is, and what is a mistake."""

import os
from pathlib import Path

import pytest

from ovfuse.errors import UsageError
from ovfuse.keys.sources import Source, parse_source
from ovfuse.keys.sources.command import CommandSource
from ovfuse.keys.sources.credential import CredentialSource
from ovfuse.keys.sources.descriptor import DescriptorSource
from ovfuse.keys.sources.file import FileSource
from ovfuse.keys.sources.keyring import KeyringSource
from ovfuse.keys.sources.passphrase import PassphraseSource, TerminalSource
from ovfuse.keys.sources.tpm2 import Tpm2Source

SOURCES: dict[str, Source] = {
    "identity.txt": FileSource(Path("identity.txt")),
    "/a/b": FileSource(Path("/a/b")),
    "file:identity.txt": FileSource(Path("identity.txt")),
    "file:fd:3": FileSource(Path("fd:3")),
    "./fd:3": FileSource(Path("fd:3")),
    "other:thing": FileSource(Path("other:thing")),
    "credential:ovfuse.identity": CredentialSource("ovfuse.identity"),
    "command:/bin/cat 'a b'": CommandSource("/bin/cat 'a b'"),
    "fd:0": DescriptorSource(0),
    "fd:12": DescriptorSource(12),
    "keyring:ovfuse:models": KeyringSource("ovfuse:models"),
    "tpm2:a.tpm2": Tpm2Source(Path("a.tpm2")),
    "passphrase:": TerminalSource(),
    "passphrase:credential:x": PassphraseSource(CredentialSource("x")),
    "passphrase:word": PassphraseSource(FileSource(Path("word"))),
}


@pytest.mark.parametrize("words", SOURCES)
def test_words_name_a_source(words: str) -> None:
    source = parse_source(words)

    assert source == SOURCES[words]
    assert parse_source(source.words) == source


def test_path_object_is_always_a_file() -> None:
    assert parse_source(Path("fd:3")) == FileSource(Path("fd:3"))


@pytest.mark.parametrize(
    "words",
    [
        "",
        "file:",
        "a\0b",
        "credential:",
        "credential:..",
        "credential:a/b",
        "credential:" + "a" * 256,
        "command:",
        "command:  ",
        "command:/bin/cat 'a",
        "command:bin/cat",
        "command:./cat",
        "fd:",
        "fd:x",
        "fd:-1",
        "fd:٣",
        "fd:99999999",
        "fd:3 ",
        "keyring:",
        "keyring:" + "a" * 4096,
        "tpm2:",
        "passphrase:passphrase:x",
        "passphrase:passphrase:",
        "passphrase:fd:x",
    ],
)
def test_what_names_no_source(words: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_source(words)

    assert caught.value.message.isprintable()


def test_name_alone_is_looked_for_in_path_but_not_for_root(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    with pytest.raises(UsageError, match="no absolute path"):
        parse_source("command:cat x")

    monkeypatch.setattr(os, "geteuid", lambda: 54321)
    assert parse_source("command:cat x") == CommandSource("cat x")


def test_paths_are_seen_from_elsewhere() -> None:
    here = Path("/here")
    expected = {
        "a": "file:/here/a",
        "/a": "file:/a",
        "tpm2:a": "tpm2:/here/a",
        "passphrase:a": "passphrase:file:/here/a",
        "fd:3": "fd:3",
        "credential:a": "credential:a",
        "keyring:a": "keyring:a",
        "command:/bin/cat a": "command:/bin/cat a",
        "passphrase:": "passphrase:",
    }

    for words, others in expected.items():
        assert parse_source(words).seen_from(here).words == others


def test_arguments_of_a_command_are_not_shown() -> None:
    source = parse_source("command:/bin/cat --token=hunter2")

    assert source.label == "command:/bin/cat"
    assert "hunter2" not in repr(source)
