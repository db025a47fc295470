"""Real models of every format, sealed, and on a mount: two doors to the same bytes."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support import models, more_models
from tests.support.mounting import ENGINES, Home, mounted, succeed

CACHE = models.ROOT / ".cache" / "models"
DOORS = (
    "sealed",
    *(pytest.param(engine, marks=pytest.mark.fuse) for engine in ENGINES),
)

PATHS = (
    *(str(model.path) for model in models.LAYOUT),
    "more/f32.xml",
    "more/f16.xml",
    "more/i8.xml",
    "more/paddle.pdmodel",
    "more/frozen.pb",
)
"""What an app would give OpenVINO as a model's path."""


@dataclass(frozen=True)
class Door:
    """What `open_model` is given, and the account that can open it."""

    directory: Path
    home: Home


@pytest.fixture(scope="session", autouse=True)
def _no_telemetry() -> None:
    """Else OpenVINO forks at its import, and the child shares memory for a while."""
    os.environ.setdefault("CI", "true")


@pytest.fixture(scope="session")
def plain() -> Path:
    """A directory with a model of every format."""
    directory = models.build_model_directory(CACHE / "load", CACHE, models.MiB)
    more = directory / "more"
    for precision in ("f32", "f16", "i8"):
        more_models.ir(more / f"{precision}.xml", precision)
    more_models.paddle(more)
    more_models.frozen(more / "frozen.pb")
    return directory


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


@pytest.fixture(scope="module", params=DOORS)
def door(request: pytest.FixtureRequest, home: Home, sealed: Path) -> Iterator[Door]:
    """The same models, by each door."""
    if request.param == "sealed":
        yield Door(sealed, home)
        return
    mountpoint = home.directory / f"mnt-{request.param}"
    with mounted(home, sealed, mountpoint, engine=request.param):
        yield Door(mountpoint, home)


@pytest.fixture
def as_home(home: Home, monkeypatch: pytest.MonkeyPatch) -> Home:
    """Be the account, in this process."""
    for name in ("XDG_CONFIG_HOME", "XDG_STATE_HOME"):
        monkeypatch.setenv(name, home.environment[name])
    return home
