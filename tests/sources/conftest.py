"""What the tests of sources share: who seals, a device, and places for its identity."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support import places
from tests.support.mounting import Home, succeed
from tests.support.tpm import Tpm, tpm_in

scratch, mountpoint = places.scratch, places.mountpoint
shared, publisher = places.shared, places.publisher


@pytest.fixture(scope="session")
def device(publisher: Home, shared: Path) -> Home:
    """Who trusts the publisher; its identity is not where one is looked for."""
    home = Home(directory=shared / "device")
    succeed(home, "trust", "add", publisher.public_key)
    return home


@pytest.fixture(scope="session")
def identity(shared: Path, device: Home) -> Path:
    """The identity of the device, for tests to put elsewhere."""
    succeed(device, "keygen", "-o", shared / "device.txt")
    return shared / "device.txt"


@pytest.fixture(scope="session")
def recipient(identity: Path) -> str:
    (line,) = [x for x in identity.read_text().splitlines() if "public key: " in x]
    return line.rpartition(" ")[2]


@pytest.fixture(scope="session")
def plain(shared: Path) -> Path:
    """A model directory."""
    (shared / "plain").mkdir()
    (shared / "plain" / "model.xml").write_text("<net/>")
    return shared / "plain"


@pytest.fixture(scope="session")
def sealed(publisher: Home, shared: Path, plain: Path, recipient: str) -> Path:
    """A model for the device; tests leave it alone."""
    succeed(publisher, "encrypt", "-r", recipient, plain, shared / "sealed")
    return shared / "sealed"


@pytest.fixture
def tpm(tmp_path: Path) -> Iterator[Tpm]:
    """A TPM into whose PCR 7 something was measured."""
    with tpm_in(tmp_path / "tpm") as found:
        found.extend(7)
        yield found


@pytest.fixture
def key(identity: Path) -> Iterator[str]:
    """A key in the user's keyring with the identity; its description."""
    name = f"ovfuse-test-{os.getpid()}"
    with key_in_keyring(name, identity):
        yield name


@contextmanager
def key_in_keyring(name: str, payload: Path) -> Iterator[str]:
    """Have a key in the user's keyring, until the end; yield its number."""
    with payload.open("rb") as file:
        command = ["keyctl", "padd", "user", name, "@u"]
        done = subprocess.run(command, stdin=file, capture_output=True, check=True)
    serial = done.stdout.decode().strip()
    try:
        yield serial
    finally:
        command = ["keyctl", "unlink", serial, "@u"]
        subprocess.run(command, capture_output=True, check=False)


def with_variables(home: Home, **variables: str) -> Home:
    """Return the same home with more in its environment."""
    return replace(home, extra={**home.extra, **variables})


def with_descriptor(home: Home, number: int, path: Path, *, pipe: bool) -> Home:
    """Return the same home, in which commands have a file open, or a pipe from it."""
    opening = '< <(cat "$0")' if pipe else '<"$0"'
    script = f'exec {number}{opening}; exec "$@"'
    return replace(home, program=("bash", "-c", script, f"{path}", *home.program))


def program_in(directory: Path, text: str) -> Path:
    """Make a program of a shell script."""
    path = directory / "program"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def credentials_in(directory: Path, name: str, content: Path) -> Path:
    """Make a directory as systemd's for credentials."""
    made = directory / "credentials"
    made.mkdir()
    shutil.copy(content, made / name)
    (made / name).chmod(0o400)
    return made
