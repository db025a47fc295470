"""The vectors: made again byte for byte, and read by ovfuse and by another reader."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests import second_decryptor
from tests.support.encryptor import Json
from tests.vectors import build, generate
from tests.vectors.reading import Opener, ovfuse, released_by, second

DIRECTORIES = sorted(path.parent for path in build.HERE.glob("*/expect.json"))
NAMES = [path.name for path in DIRECTORIES]
TOLD = ("machine_id", "name", "now", "passphrase", "place", "seen")


def committed_files(directory: Path) -> dict[str, bytes | str]:
    found: dict[str, bytes | str] = {}
    for path in directory.rglob("*"):
        name = str(path.relative_to(directory))
        if path.is_symlink():
            found[name] = str(path.readlink())
        elif path.is_file():
            found[name] = path.read_bytes()
    return found


def test_all_vectors_have_generators() -> None:
    assert generate.MODULES
    assert sorted(build.VECTORS) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_vector_is_what_its_generator_makes(name: str) -> None:
    assert committed_files(build.HERE / name) == build.files_of(name)


def test_trusted_key_is_what_its_generator_makes() -> None:
    assert build.TRUSTED.read_text() == build.trusted_line()


def compare(name: str, opener: Opener) -> None:
    """Read a vector, and compare what comes with what expect.json says."""
    directory = build.HERE / name
    expected: Json = json.loads((directory / "expect.json").read_bytes())
    told = {key: expected.pop(key) for key in TOLD if key in expected}
    del expected["comment"]
    found = released_by(
        opener, directory / "model", build.IDENTITY, build.TRUSTED, told
    )

    assert found == expected


@pytest.mark.parametrize("name", NAMES)
def test_ovfuse_releases_what_it_may(name: str) -> None:
    compare(name, ovfuse)


@pytest.mark.tools
@pytest.mark.parametrize("name", [n for n in NAMES if not n.startswith("passphrase")])
def test_second_decryptor_agrees(name: str) -> None:
    compare(name, second)


def run_second(name: str, *out: Path) -> subprocess.CompletedProcess[str]:
    model = build.HERE / name / "model"
    arguments = [model, build.IDENTITY, build.TRUSTED, *out]
    command = [sys.executable, second_decryptor.__file__, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.tools
def test_second_decryptor_is_a_command(tmp_path: Path) -> None:
    assert run_second("envelope", tmp_path).returncode == 0
    assert committed_files(tmp_path) == build.BASE.files

    refused = run_second("unsigned", tmp_path)
    assert (refused.returncode, refused.stderr) == (1, "refused: untrusted\n")


def test_second_decryptor_is_short() -> None:
    """Who reads it sees how simple the format is."""
    lines = Path(second_decryptor.__file__).read_text().splitlines()

    assert len(lines) <= 200


def test_second_decryptor_has_nothing_of_ovfuse() -> None:
    text = Path(second_decryptor.__file__).read_text()

    assert "import ovfuse" not in text
    assert "from ovfuse" not in text
    assert "tests" not in text
