"""A place in memory for the tests, since nothing here is about waiting for a disk."""

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.kill.scenarios import World
from tests.support.faults import Server

_MEMORY = Path("/dev/shm")


@pytest.fixture
def world() -> Iterator[World]:
    """A world with nothing in it but a home; saved is nothing yet."""
    with TemporaryDirectory(dir=_MEMORY if _MEMORY.is_dir() else None) as base:
        directory = Path(base).resolve() / "world"
        directory.mkdir()
        yield World(directory=directory, saved=directory.with_name("saved"))


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    """Runs commands that nothing is done to."""
    with Server.serving() as made:
        yield made
