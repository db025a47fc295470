"""Fixtures: directories for tests of real mounts, and who seals what is in them.

A conftest names those that its tests have.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.mounting import Home, succeed
from tests.support.users import open_directory

__all__ = ["mountpoint", "publisher", "scratch", "shared"]


@pytest.fixture
def scratch() -> Iterator[Path]:
    """An empty directory that every account can reach."""
    with open_directory() as directory:
        yield directory


@pytest.fixture
def mountpoint(scratch: Path) -> Path:
    """An empty directory."""
    directory = scratch / "mnt"
    directory.mkdir()
    return directory


@pytest.fixture(scope="session")
def shared() -> Iterator[Path]:
    """As scratch, for what is made once."""
    with open_directory() as directory:
        yield directory


@pytest.fixture(scope="session")
def publisher(shared: Path) -> Home:
    """Who seals, and may mount what is sealed; tests leave its keys alone."""
    home = Home(directory=shared / "publisher")
    succeed(home, "keygen")
    return home
