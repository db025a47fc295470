"""Real models, plain and on a mount, for programs that know nothing of ovfuse."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import models
from tests.support.mounting import ENGINES, Home, mounted, succeed

CACHE = models.ROOT / ".cache" / "models"
LARGE_SIZE = models.MiB


@pytest.fixture(scope="session", params=ENGINES)
def engine(request: pytest.FixtureRequest) -> str:
    """The engine under test; everything runs with each."""
    name: str = request.param
    return name


@pytest.fixture(scope="session")
def plain() -> Path:
    """A directory with a model of every kind, as `models.LAYOUT` says."""
    return models.build_model_directory(CACHE / "apps", CACHE, LARGE_SIZE)


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A fresh account that has made its keys."""
    home = Home(directory=tmp_path_factory.mktemp("home"))
    succeed(home, "keygen")
    return home


@pytest.fixture(scope="session")
def sealed(home: Home, plain: Path) -> Path:
    """The same models, sealed."""
    cipherdir = home.directory / "sealed"
    succeed(home, "encrypt", plain, cipherdir)
    return cipherdir


@pytest.fixture(scope="module")
def mount(home: Home, sealed: Path, engine: str) -> Iterator[Path]:
    """The same models, on a mount."""
    mountpoint = home.directory / f"mnt-{engine}"
    with mounted(home, sealed, mountpoint, engine=engine):
        yield mountpoint
