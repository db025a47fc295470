"""Age files for a passphrase: those of other programs, and ours for them."""

import base64
import re
import string
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from ovfuse.sealed.passphrase import open_for_passphrase, seal_for_passphrase
from tests.fuzz import age
from tests.sealed.test_wrapping import SCRYPT_FILE
from tests.support.mounting import Home
from tests.support.prompts import type_into

CONTENT = bytes(range(32))
LETTERS = f"{string.ascii_letters}{string.digits}+/".encode()
PASSPHRASE = "Pässwort 1"

OWN = age.scrypt_stanza(PASSPHRASE, 4)


def cheap(content: bytes = CONTENT) -> bytes:
    """Return a file that costs little, made by other code than ours."""
    return age.age_file([OWN], content)


@pytest.fixture(scope="module")
def made() -> bytes:
    return seal_for_passphrase(memoryview(CONTENT), PASSPHRASE)


def test_file_of_another_program() -> None:
    assert open_for_passphrase(SCRYPT_FILE, "secret") == CONTENT
    assert open_for_passphrase(SCRYPT_FILE, "another") is None


def test_cost_is_fixed(made: bytes) -> None:
    """Not what the machine seems to be good for at the moment."""
    assert made.split(b"\n")[1].endswith(b" 18")


def test_it_opens_again_and_each_is_different(made: bytes) -> None:
    assert open_for_passphrase(made, PASSPHRASE) == CONTENT
    again = seal_for_passphrase(memoryview(CONTENT), PASSPHRASE)
    lines = zip(made.split(b"\n")[1:4], again.split(b"\n")[1:4], strict=True)
    assert all(one != other for one, other in lines)


@pytest.mark.tools
def test_age_opens_ours(made: bytes, tmp_path: Path) -> None:
    (tmp_path / "made.age").write_bytes(made)
    program = replace(Home(directory=tmp_path), program=("age",))
    words = ("-d", "-o", tmp_path / "out", tmp_path / "made.age")
    done = type_into(program, *words, answers=[PASSPHRASE], hides_late=True)

    assert done.code == 0, done.screen
    assert (tmp_path / "out").read_bytes() == CONTENT


@pytest.mark.tools
def test_ours_opens_what_age_made(tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(CONTENT)
    program = replace(Home(directory=tmp_path), program=("age",))
    words = ("-p", "-o", tmp_path / "made.age", tmp_path / "in")
    done = type_into(program, *words, answers=[PASSPHRASE] * 2, hides_late=True)

    assert done.code == 0, done.screen
    assert (
        open_for_passphrase((tmp_path / "made.age").read_bytes(), PASSPHRASE) == CONTENT
    )


def test_every_bit_counts(caplog: pytest.LogCaptureFixture) -> None:
    data = cheap()
    assert open_for_passphrase(data, PASSPHRASE) == CONTENT
    factor = data.index(b" 4\n") + 1  # another one may cost any amount of time
    for position in {*range(len(data))} - {factor}:
        for bit in range(8):
            changed = bytearray(data)
            changed[position] ^= 1 << bit
            assert open_for_passphrase(bytes(changed), PASSPHRASE) is None
    assert "skipped a key file for a passphrase that is damaged" in caplog.text
    assert PASSPHRASE not in caplog.text


def test_base64_is_canonical() -> None:
    """The last letters of salt, body and code have bits that do not count."""
    data = cheap()
    ends = [
        match.start() for match in re.finditer(rb"(?<=[\w+/]{21})[\w+/]( 4)?\n", data)
    ]
    assert len(ends) == 3
    for end in ends:
        for letter in LETTERS.replace(data[end : end + 1], b""):
            changed = data[:end] + bytes([letter]) + data[end + 1 :]
            assert open_for_passphrase(changed, PASSPHRASE) is None


def test_every_length_counts() -> None:
    data = cheap()
    for size in range(len(data)):
        assert open_for_passphrase(data[:size], PASSPHRASE) is None
    assert open_for_passphrase(data + b"\0", PASSPHRASE) is None


@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize("other", ["-> x-grease a b\n\n", OWN])
def test_it_is_the_only_recipient(other: str, before: bool) -> None:
    """As age has it."""
    stanzas = [other, OWN] if before else [OWN, other]

    assert open_for_passphrase(age.age_file(stanzas, CONTENT), PASSPHRASE) is None


@pytest.mark.parametrize("size", [0, 1, 65_536])
def test_sizes(size: int) -> None:
    assert open_for_passphrase(cheap(bytes(size)), PASSPHRASE) == bytes(size)


def test_lack_of_memory_is_not_another_passphrase() -> None:
    program = (
        "import base64, resource, sys\n"
        "from ovfuse.errors import NoUsableKeyError\n"
        "from ovfuse.sealed.passphrase import open_for_passphrase\n"
        "data = base64.b64decode(sys.argv[1])\n"
        "limit = int(sys.argv[2])\n"
        "resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))\n"
        "try:\n"
        "    open_for_passphrase(data, 'secret')\n"
        "except NoUsableKeyError as error:\n"
        "    print(error.message)\n"
    )
    words = (base64.b64encode(SCRYPT_FILE).decode(), f"{100 << 20}")
    done = subprocess.run(
        [sys.executable, "-c", program, *words],
        capture_output=True,
        text=True,
        check=True,
    )

    assert done.stdout == "a passphrase takes 128 MiB of memory, which there are not\n"
