"""The sealings before the current one go, and nothing else."""

import os
import shutil
from pathlib import Path

import pytest

from ovfuse.errors import BusyError, CipherdirError, DamagedError
from ovfuse.sealed.sealer import CipherdirWriter
from tests.cli.conftest import seal_directory, snapshot
from tests.support.mounting import Home, refused, succeed


@pytest.fixture
def sealed(home: Home, plain: Path, scratch: Path) -> Path:
    """The second version; the first one is kept."""
    for _ in range(2):
        succeed(home, "encrypt", plain, scratch / "sealed")
    return scratch / "sealed"


def test_current_one_only_is_kept(home: Home, sealed: Path, scratch: Path) -> None:
    (sealed / "seals" / ("0" * 32)).mkdir()
    (sealed / "seals" / "notes.txt").write_text("not ours")
    nobody = Home(directory=scratch / "nobody")

    assert succeed(nobody, "prune", sealed) == f"removed 2 sealings from '{sealed}'\n"
    assert sorted(os.listdir(sealed / "seals")) == sorted(
        [seal_directory(sealed).name, "notes.txt"]
    )
    succeed(home, "verify", sealed)
    assert "removed 0 sealings" in succeed(nobody, "prune", sealed)


@pytest.mark.parametrize("fault", ["pointer", "no pointer", "envelope", "sealing"])
def test_damaged_current_one_removes_nothing(
    home: Home, sealed: Path, fault: str
) -> None:
    current = seal_directory(sealed)
    if fault == "pointer":
        (sealed / "model.ovfuse").write_text("rubbish\n")
    elif fault == "no pointer":
        (sealed / "model.ovfuse").unlink()
    elif fault == "envelope":
        (current / "manifest.dsse.json").write_text("{}")
    else:
        shutil.rmtree(current)
    before = snapshot(sealed)

    refused(home, DamagedError, "prune", sealed)
    assert snapshot(sealed) == before


def test_places_without_a_sealed_model(home: Home, sealed: Path, scratch: Path) -> None:
    (scratch / "empty").mkdir()
    for place in ("empty", "none", ".", "plain"):
        refused(home, CipherdirError, "prune", scratch / place)
    with CipherdirWriter.open(sealed):
        refused(home, BusyError, "prune", sealed)
