"""What the tests of commands share: a home, a model directory, looking at results."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from ovfuse.errors import OvfuseError
from tests.support import places
from tests.support.mounting import Home, check_error_lines, run_ovfuse, succeed

scratch = places.scratch


@pytest.fixture
def home(scratch: Path) -> Home:
    """A home without keys."""
    return Home(directory=scratch / "home")


@pytest.fixture
def plain(scratch: Path) -> Path:
    """A small model directory."""
    directory = scratch / "plain"
    (directory / "sub").mkdir(parents=True)
    (directory / "model.xml").write_text("<net/>")
    (directory / "model.bin").write_bytes(bytes(range(256)) * 800)
    (directory / "sub" / "labels.txt").write_text("cat\ndog\n")
    return directory


def inspected(home: Home, cipherdir: Path) -> dict[str, Any]:
    """Return what `ovfuse inspect` says about the one model in a cipherdir."""
    (model,) = json.loads(succeed(home, "inspect", "--json", cipherdir))["models"]
    assert isinstance(model, dict)
    return model


def unverified(
    home: Home, error: type[OvfuseError], *arguments: str | os.PathLike[str]
) -> str:
    """Run an `ovfuse verify` that must fail so; return what it reports."""
    done = run_ovfuse(home, "verify", *arguments)
    assert done.returncode == error.exit_code, done.stderr
    check_error_lines(done.stderr)
    return done.stdout


def snapshot(directory: Path) -> dict[str, bytes]:
    """Return everything in a directory."""
    return {
        f"{path.relative_to(directory)}": b"" if path.is_dir() else path.read_bytes()
        for path in directory.rglob("*")
    }


def seal_directory(cipherdir: Path) -> Path:
    """Return the directory of the current sealing."""
    _, _, seal_id = (cipherdir / "model.ovfuse").read_text().split()
    return cipherdir / "seals" / seal_id


def key_files(cipherdir: Path) -> list[Path]:
    """Return the wrapped keys of the current sealing."""
    return sorted((seal_directory(cipherdir) / "keys").iterdir())
