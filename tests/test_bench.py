"""scripts/bench in small: every measurement there is, and nothing left behind."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "scripts" / "bench.py"
SMALL = ["--size", "4", "--files", "20", "--reads", "20", "--rounds", "2"]


def bench(*arguments: str, path: str | None = None) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "CI": "true", "PYTHONPATH": str(ROOT)}
    if path is not None:
        environment["PATH"] = path
    return subprocess.run(
        [sys.executable, SCRIPT, *SMALL, "--touch", "1", *arguments],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=250,
    )


def left_in_cache() -> set[Path]:
    return set((ROOT / ".cache").glob("bench-*"))


@pytest.mark.fuse
@pytest.mark.openvino
@pytest.mark.slow
def test_every_number_is_there_and_nothing_stays(tmp_path: Path) -> None:
    before = left_in_cache()
    names = ["plain", "ovfuse libfuse", "ovfuse on demand"]
    only = [word for name in names for word in ("--only", name)]
    done = bench(*only, "--json", str(tmp_path / "found.json"))

    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "found.json").read_text())
    assert list(found["measured"]) == names
    keys = {figure.key for figure in report().FIGURES}
    assert set(found["measured"]["ovfuse on demand"]) == keys
    assert set(found["measured"]["ovfuse libfuse"]) == {
        key for key in keys if not key.startswith(("sealing", "pause"))
    }
    assert set(found["measured"]["plain"]) == {
        key for key in keys if not key.startswith(("start", "memory", "pause"))
    }
    for numbers in found["measured"].values():
        for key, values in numbers.items():
            assert len(values) == 2, key
            assert all(value > 0 for value in values), key
    assert "| ovfuse on demand | second inference, against plain |" in done.stdout
    assert left_in_cache() == before
    assert not any("bench-" in line for line in mounts())


@pytest.mark.openvino
@pytest.mark.slow
def test_what_is_not_installed_is_named_and_left_out(tmp_path: Path) -> None:
    wanted = ["--only", "gocryptfs", "--only", "plain", "--measure", "mapping"]
    done = bench(*wanted, "--json", str(tmp_path / "found.json"), path=str(tmp_path))

    assert done.returncode == 0, done.stderr
    assert "left out: gocryptfs" in done.stderr
    found = json.loads((tmp_path / "found.json").read_text())
    assert list(found["measured"]) == ["plain"]


def mounts() -> list[str]:
    return Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines()


# The report


def report() -> ModuleType:
    path = ROOT / "scripts" / "bench_report.py"
    spec = importlib.util.spec_from_file_location("bench_report", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["bench_report"] = module  # its dataclasses look there
    spec.loader.exec_module(module)
    return module


def found_with(measured: dict[str, dict[str, list[float]]]) -> dict[str, Any]:
    return {
        "machine": report().machine() | {"load after": 0.5},
        "options": {"size": 1, "files": 2, "reads": 3, "rounds": 3, "touch": 5},
        "versions": {"gocryptfs": "gocryptfs 2.3"},
        "measured": measured,
    }


def test_medians_spread_and_bounds() -> None:
    found = found_with(
        {
            "gocryptfs": {"cold read": [1e9, 3e9, 2e9], "listing": [0.4, 0.4, 0.4]},
            "ovfuse on demand": {
                "cold read": [2e9, 2e9, 9e9],
                "listing": [0.1, 0.2, 0.3],
            },
        }
    )
    lines = report().tables(found).splitlines()

    assert "| cold read, GB/s | **2.00** (1.00-3.00) | **2.00** (2.00-9.00) |" in lines
    for line in (
        "| cold read, against gocryptfs | **1.00** | 1.10: missed |  |",
        "| listing, against gocryptfs | **2.00** | 1.00: held |  |",
    ):
        assert f"| ovfuse on demand {line}" in lines


def test_page_has_the_numbers_that_are_committed() -> None:
    module = report()
    found = json.loads(module.DATA.read_text(encoding="utf-8"))

    assert module.tables(found) in module.PAGE.read_text(encoding="utf-8")
