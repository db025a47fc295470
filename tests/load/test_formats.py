"""Every format computes through the loader what it computes from plain files."""

import json
import sys
from pathlib import Path

import pytest

from tests.load.conftest import PATHS, Door
from tests.support import infer
from tests.support.mounting import run_as

pytestmark = pytest.mark.openvino

ROOT = Path(__file__).parents[2]
APP = (sys.executable, "-m", "tests.load.app")


@pytest.fixture(scope="session")
def expected(plain: Path) -> dict[str, str]:
    """The digests of the plain files' outputs."""
    return {path: infer.digest(infer.run_openvino(plain / path)) for path in PATHS}


@pytest.fixture(scope="module")
def found(door: Door) -> dict[str, str]:
    """What an app computes that has dropped everything but its request."""
    done = run_as(door.home, *APP, door.directory, *PATHS, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    lines = map(json.loads, done.stdout.splitlines())
    return {line["path"]: line.get("digest", line) for line in lines}


@pytest.mark.parametrize("path", PATHS)
def test_outputs_are_those_of_the_plain_files(
    found: dict[str, str], expected: dict[str, str], path: str
) -> None:
    assert found[path] == expected[path]


def test_models_compute_different_things(expected: dict[str, str]) -> None:
    assert len({expected[path] for path in PATHS if "more" in path}) == 5
