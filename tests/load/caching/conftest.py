"""Models that compiling changes, sealed, and an account that opens them."""

import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from tests.load.caching.cached import make_models
from tests.support.mounting import Home, succeed


@pytest.fixture(scope="session")
def compiled_plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models that compiling changes, in plaintext."""
    return make_models(tmp_path_factory.mktemp("models") / "plain", seed=1)


@pytest.fixture(scope="module")
def publisher(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """An account that has made its keys."""
    home = Home(directory=tmp_path_factory.mktemp("publisher") / "home")
    succeed(home, "keygen")
    return home


@pytest.fixture(scope="module")
def sealed_once(publisher: Home, compiled_plain: Path) -> Path:
    """The models, sealed for the account."""
    sealed = publisher.directory / "sealed"
    succeed(publisher, "encrypt", compiled_plain, sealed)
    return sealed


@pytest.fixture
def account(publisher: Home, monkeypatch: pytest.MonkeyPatch) -> Home:
    """The account as this process is it: nothing was compiled or seen before."""
    monkeypatch.setenv("XDG_CONFIG_HOME", publisher.environment["XDG_CONFIG_HOME"])
    names = ("XDG_STATE_HOME", "XDG_CACHE_HOME")
    return replace(publisher, extra={name: os.environ[name] for name in names})


@pytest.fixture
def cipherdir(account: Home, sealed_once: Path, tmp_path: Path) -> Path:
    """The models, sealed; for this test alone, which may seal others in their place."""
    return Path(shutil.copytree(sealed_once, tmp_path / "sealed"))


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """What the app calls its CACHE_DIR; missing, as OpenVINO would make it."""
    return tmp_path / "app" / "cache.v1"
