"""A home, a system and an environment of the test's own."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the home directory, which is empty."""
    directory = tmp_path / "home"
    directory.mkdir(mode=0o700)
    monkeypatch.setenv("HOME", str(directory))
    for name in ("XDG_CONFIG_HOME", "OVFUSE_IDENTITY", "CREDENTIALS_DIRECTORY"):
        monkeypatch.delenv(name, raising=False)
    return directory


@pytest.fixture
def configuration(home: Path) -> Path:
    """Return the user's directory of ovfuse, which is not there yet."""
    return home / ".config" / "ovfuse"


@pytest.fixture(autouse=True)
def system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return what stands for /etc/ovfuse, which is not there yet."""
    directory = tmp_path / "etc" / "ovfuse"
    for module in ("identities", "trusted"):
        monkeypatch.setattr(f"ovfuse.keys.{module}.SYSTEM_DIRECTORY", directory)
    return directory


@pytest.fixture
def give_away(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], None]:
    """Return what makes a file somebody else's, neither ours nor root's."""

    def give(path: Path) -> None:
        if os.geteuid() == 0:
            os.chown(path, 54321, 54321)
        else:
            monkeypatch.setattr(os, "geteuid", lambda: 54321)

    return give
