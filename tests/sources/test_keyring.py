"""`keyring:`: keys of the kernel, as keyctl(1) makes them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ovfuse.errors import KeyFileError
from ovfuse.keys.sources import keyring as module
from ovfuse.keys.sources import parse_source
from tests.sources.conftest import key_in_keyring

pytestmark = pytest.mark.tools

READER = """
import sys
from ovfuse.errors import KeyFileError
from ovfuse.keys.sources import parse_source
try:
    with parse_source(sys.argv[1]).read() as secret:
        print(bytes(secret.view).decode())
except KeyFileError as error:
    print(error.message)
"""


def read(words: str) -> bytes:
    with parse_source(words).read() as secret:
        return bytes(secret.view)


def keyctl(*words: str) -> str:
    done = subprocess.run(["keyctl", *words], capture_output=True, check=True)
    return done.stdout.decode().strip()


def in_session(script: str, words: str) -> str:
    """Read in a session keyring of its own, after a shell script there."""
    command = ["keyctl", "session", "-", "sh", "-c", f'{script}; exec "$@"', "sh"]
    done = subprocess.run(
        [*command, sys.executable, "-c", READER, words], capture_output=True, check=True
    )
    return done.stdout.decode().strip()


def test_key_of_the_user(key: str, identity: Path) -> None:
    assert read(f"keyring:{key}") == identity.read_bytes()


def test_key_of_the_user_in_a_fresh_session(key: str, identity: Path) -> None:
    """As in a service with KeyringMode=private, where nobody possesses it yet."""
    assert in_session(":", f"keyring:{key}") == identity.read_text().strip()


def test_session_is_as_it_was(key: str, tmp_path: Path) -> None:
    script = 'keyctl show @s >"$0.1"; "$@"; keyctl show @s >"$0.2"'
    command = ["keyctl", "session", "-", "sh", "-c", script, f"{tmp_path}/shown"]
    words = [sys.executable, "-c", READER, f"keyring:{key}"]
    subprocess.run([*command, *words], capture_output=True, check=True)
    before, after = (tmp_path / f"shown.{number}" for number in (1, 2))

    assert "keyring" in before.read_text()
    assert after.read_text() == before.read_text()


def test_key_of_the_session_comes_first(key: str) -> None:
    script = f"echo mine | keyctl padd user {key} @s >/dev/null"

    assert in_session(script, f"keyring:{key}") == "mine"


def test_key_that_is_not_there() -> None:
    with pytest.raises(KeyFileError, match=r"'keyring:none-\d+': there is no such key"):
        read(f"keyring:none-{os.getpid()}")


def test_key_of_another_type_is_none(identity: Path) -> None:
    name = f"ovfuse-logon:{os.getpid()}"
    serial = keyctl("add", "logon", name, "x", "@u")
    try:
        with pytest.raises(KeyFileError, match="there is no such key"):
            read(f"keyring:{name}")
    finally:
        keyctl("unlink", serial, "@u")


def test_key_that_may_not_be_read(identity: Path) -> None:
    name = f"ovfuse-closed-{os.getpid()}"
    with key_in_keyring(name, identity) as serial:
        keyctl("setperm", serial, "0x01010000")  # to be seen, alone
        with pytest.raises(KeyFileError, match="permissions do not allow"):
            read(f"keyring:{name}")


def test_key_that_was_revoked(identity: Path) -> None:
    name = f"ovfuse-revoked-{os.getpid()}"
    with key_in_keyring(name, identity) as serial:
        keyctl("revoke", serial)
        with pytest.raises(KeyFileError, match=r"revoked|no such key"):
            read(f"keyring:{name}")


def test_key_that_is_too_large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A key of type `user` has at most 32767 bytes."""
    monkeypatch.setattr(module, "MAX_SIZE", 100)
    (tmp_path / "large").write_bytes(b"x" * 101)
    name = f"ovfuse-large-{os.getpid()}"
    with (
        key_in_keyring(name, tmp_path / "large"),
        pytest.raises(KeyFileError, match="more than a key needs"),
    ):
        read(f"keyring:{name}")


def test_no_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_LIBRARY", "libnothere.so.1")
    with pytest.raises(KeyFileError, match=r"needs the library libnothere\.so\.1"):
        read("keyring:x")
