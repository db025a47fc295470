"""What the tests of real mounts share: accounts, places, models sealed once."""

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.mount.trees import build_library, build_small
from tests.support import places
from tests.support.mounting import ENGINES, Home, Mount, mounted, succeed
from tests.support.users import NOBODY, open_directory, users_program

scratch, mountpoint = places.scratch, places.mountpoint
shared, publisher = places.shared, places.publisher


@dataclass(frozen=True, kw_only=True)
class Sealed:
    """A model directory and what became of it."""

    plain: Path
    cipherdir: Path

    def copy(self, path: Path) -> Path:
        """Return a copy of the cipherdir that a test may damage."""
        shutil.copytree(self.cipherdir, path)
        return path


def seal_directory(cipherdir: Path) -> Path:
    """Return the directory of the current sealing."""
    _, _, seal_id = (cipherdir / "model.ovfuse").read_text().split()
    return cipherdir / "seals" / seal_id


def envelope_of(cipherdir: Path) -> Path:
    """Return the envelope of the current sealing."""
    return seal_directory(cipherdir) / "manifest.dsse.json"


def flip(path: Path, offset: int) -> None:
    """Flip one bit of the byte at an offset."""
    data = bytearray(path.read_bytes())
    data[offset] ^= 1
    path.write_bytes(data)


@pytest.fixture(scope="session", params=ENGINES)
def engine(request: pytest.FixtureRequest) -> str:
    """The engine under test."""
    name: str = request.param
    return name


@pytest.fixture(scope="session")
def small(shared: Path, publisher: Home) -> Sealed:
    """A small sealed model; tests leave it alone."""
    plain = build_small(shared / "plain" / "small")
    succeed(publisher, "encrypt", plain, shared / "small")
    return Sealed(plain=plain, cipherdir=shared / "small")


@pytest.fixture(scope="session")
def library(shared: Path, publisher: Home) -> Sealed:
    """A sealed model with one of everything; tests leave it alone."""
    plain = build_library(shared / "plain" / "library")
    succeed(publisher, "encrypt", plain, shared / "library")
    return Sealed(plain=plain, cipherdir=shared / "library")


@pytest.fixture(scope="session")
def library_mount(
    shared: Path, publisher: Home, library: Sealed, engine: str
) -> Iterator[Mount]:
    """The library, mounted once for all who only read; nothing may go wrong in it."""
    mountpoint, log = shared / f"library-{engine}", shared / f"{engine}.log"
    options = ("-o", f"log={log}")
    with mounted(
        publisher, library.cipherdir, mountpoint, *options, engine=engine
    ) as mount:
        yield mount
    lines = log.read_text().splitlines()
    assert [line for line in lines if " INFO " not in line] == []
    assert len([line for line in lines if " INFO opened " not in line]) == 2


@pytest.fixture
def home(scratch: Path) -> Home:
    """A home without keys."""
    return Home(directory=scratch / "home")


@pytest.fixture(scope="session")
def program() -> Iterator[tuple[str, ...]]:
    """What an ordinary user runs."""
    if os.geteuid() != 0:
        pytest.skip("only root can become an ordinary user")
    with users_program() as command:
        yield command


@pytest.fixture
def user(program: tuple[str, ...]) -> Iterator[Home]:
    """The home, without keys, of an ordinary user, in a directory of his."""
    with open_directory(NOBODY) as directory:
        yield Home(directory=directory / "home", uid=NOBODY, program=program)
