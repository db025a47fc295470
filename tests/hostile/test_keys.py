"""Hostile files in keys/: many, other keys, many recipients, costly passphrases."""

import base64
import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pyrage
import pytest

from ovfuse.errors import DamagedError, NoUsableKeyError
from ovfuse.sealed import layout
from ovfuse.sealed.opening import SealedModel
from ovfuse.sealed.reader import ScratchPool
from ovfuse.sealed.wrapping import Identity, stanza_types
from ovfuse.secret import Secret
from tests.hostile.published import publish, write
from tests.support.encryptor import Plain, SealedFiles
from tests.support.sealed import make_identity, recipient_of, wrapped

FILES = {"a": b"abc"}


@pytest.fixture
def made() -> SealedFiles:
    return publish(Plain(files=FILES), "hostile keys")


def unlock(
    directory: Path,
    identities: list[Identity],
    ask: Callable[[], str | None] | None = None,
) -> None:
    with SealedModel.open(directory) as model, model.current() as locked:
        locked.unlock(identities, ScratchPool(), ask).close()


def key_path(made: SealedFiles, number: int) -> str:
    return made.path_of(f"keys/{number:032x}.age")


@pytest.mark.parametrize("kind", ["of others", "with other keys", "rubbish"])
def test_right_key_is_found_among_1023_others(
    tmp_path: Path, made: SealedFiles, identity: Identity, kind: str
) -> None:
    data: Callable[[], bytes] = {
        "of others": lambda: wrapped(made.model_key, make_identity()),
        "with other keys": lambda: wrapped(secrets.token_bytes(32), identity),
        "rubbish": lambda: secrets.token_bytes(65_536),
    }[kind]
    for number in range(layout.KEY_FILES_MAX - 1):
        made.files[key_path(made, number)] = data()
    made.files[key_path(made, 1 << 127)] = wrapped(made.model_key, identity)
    unlock(write(made.files, tmp_path), [identity])


def test_1024_files_of_8_recipients(
    tmp_path: Path, made: SealedFiles, identity: Identity
) -> None:
    others = [recipient_of(make_identity()).age for _ in range(7)]
    data: bytes = pyrage.encrypt(made.model_key, others)
    assert stanza_types(data) == ["X25519"] * 7  # and one of grease
    for number in range(layout.KEY_FILES_MAX):
        made.files[key_path(made, number)] = data
    directory = write(made.files, tmp_path)
    with pytest.raises(NoUsableKeyError):
        unlock(directory, [identity])

    last = directory / key_path(made, layout.KEY_FILES_MAX - 1)
    last.write_bytes(
        pyrage.encrypt(made.model_key, [*others[1:], recipient_of(identity).age])
    )
    unlock(directory, [identity])


def passphrase_file(factor: str = "1") -> bytes:
    """Return what looks like a file for a passphrase."""
    salt = base64.b64encode(bytes(16)).decode().rstrip("=")
    body = "A" * 43
    text = f"age-encryption.org/v1\n-> scrypt {salt} {factor}\n{body}\n--- {body}\n"
    return text.encode() + bytes(64)


@pytest.mark.parametrize(
    "factor", ["21", "22", "63", "99", "100", "1e9", "-1", "020", ""]
)
def test_excessive_scrypt_is_refused_before_anybody_is_asked(
    tmp_path: Path, made: SealedFiles, factor: str
) -> None:
    with pytest.raises(DamagedError):
        stanza_types(passphrase_file(factor))
    made.files[key_path(made, 1)] = passphrase_file(factor)
    directory = write(made.files, tmp_path)
    asked: list[None] = []

    with pytest.raises(NoUsableKeyError):
        unlock(directory, [], lambda: asked.append(None))
    assert asked == []


def test_nobody_is_asked_without_a_passphrase_file(
    tmp_path: Path, made: SealedFiles, identity: Identity
) -> None:
    made.files[key_path(made, 1)] = wrapped(made.model_key, make_identity())
    asked: list[None] = []

    with pytest.raises(NoUsableKeyError):
        unlock(write(made.files, tmp_path), [identity], lambda: asked.append(None))
    assert asked == []


def test_many_passphrase_files_cost_one_prompt_and_four_tries(
    tmp_path: Path, made: SealedFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(layout.KEY_FILES_MAX):
        made.files[key_path(made, number)] = passphrase_file("20")
    directory = write(made.files, tmp_path)
    tried = []

    def count(data: bytes, passphrase: str) -> Secret | None:
        tried.append(passphrase)
        return None

    monkeypatch.setattr("ovfuse.sealed.wrapped.unwrap_with_passphrase", count)
    asked: list[None] = []

    def ask() -> str:
        asked.append(None)
        return "no"

    with pytest.raises(NoUsableKeyError):
        unlock(directory, [], ask)
    assert (len(asked), tried) == (1, ["no"] * 4)


def test_passphrase_is_not_tried_while_an_identity_fits(
    tmp_path: Path, made: SealedFiles, identity: Identity
) -> None:
    made.files[key_path(made, 0)] = passphrase_file("20")
    made.files[key_path(made, 1)] = wrapped(made.model_key, identity)
    asked: list[None] = []
    unlock(write(made.files, tmp_path), [identity], lambda: asked.append(None))

    assert asked == []


def test_entries_in_keys_are_not_listed_without_end(
    tmp_path: Path, made: SealedFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(2 * layout.KEY_FILES_MAX):
        made.files[made.path_of(f"keys/{number}")] = b""
    directory = write(made.files, tmp_path)
    seen = 0

    @contextmanager
    def counting(fd: int) -> Iterator[Iterator[os.DirEntry[str]]]:
        def count() -> Iterator[os.DirEntry[str]]:
            nonlocal seen
            for entry in entries:
                seen += 1
                yield entry

        with scandir(fd) as entries:
            yield count()

    scandir = os.scandir
    monkeypatch.setattr(os, "scandir", counting)
    with pytest.raises(DamagedError, match="more than 1024"):
        unlock(directory, [])
    assert seen == layout.KEY_FILES_MAX + 1
