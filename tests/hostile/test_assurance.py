"""docs/assurance.md names tests that exist, and the mutants that there are."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "assurance.md"
QUICK_SECONDS = 600


def load_script() -> Any:
    """Import scripts/mutants.py, which is in no package."""
    path = ROOT / "scripts" / "mutants.py"
    spec = importlib.util.spec_from_file_location("mutants_script", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


script = load_script()
MUTANTS = {mutant.name: mutant for mutant in script.load()}


def exists(test: str) -> bool:
    """Say whether there is a test `path::function` below tests/."""
    path, _, function = test.removeprefix("tests/").partition("::")
    file = ROOT / "tests" / path
    if not file.is_file():
        return False
    return f"def {function}(" in file.read_text("utf-8") if function else True


def rows(heading: str) -> list[list[str]]:
    """The cells of the table below a heading, without its head."""
    text = PAGE.read_text("utf-8").partition(f"## {heading}\n")[2].partition("\n## ")[0]
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines[2:]]


def test_every_promise_has_tests_that_exist() -> None:
    promises = rows("Promises")
    assert len(promises) > 20
    for promise, tests in promises:
        named = re.findall(r"`([^`]+)`", tests)
        assert named, promise
        assert [test for test in named if not exists(test)] == [], promise


def test_every_mutant_was_noticed_by_a_test_that_exists() -> None:
    found = {name: (file, test) for name, file, test in rows("Mutants")}
    assert list(found) == list(MUTANTS)
    for name, (file, test) in found.items():
        assert file == f"`{MUTANTS[name].file}`"
        assert exists(test.strip("`")), (name, test)


@pytest.mark.parametrize("name", MUTANTS)
def test_mutant_is_still_about_the_source(name: str) -> None:
    mutant = MUTANTS[name]
    source = (ROOT / "ovfuse" / mutant.file).read_text("utf-8")

    assert mutant.apply(source) != source
    assert [test for test in mutant.tests if not exists(test)] == []


@pytest.mark.slow
def test_quick_mutants_are_noticed() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "scripts.mutants", "--quick"],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
        text=True,
        timeout=QUICK_SECONDS,
    )

    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 survived" in done.stdout
