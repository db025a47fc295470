"""What the other tests lean on: components that are required, nothing left behind."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import requirements

pytest_plugins = ["pytester"]


@pytest.fixture
def run_without_openvino(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> pytest.Pytester:
    conftest = Path(__file__).with_name("conftest.py").read_text(encoding="utf-8")
    pytester.makeconftest(conftest)
    pytester.makeini("[pytest]\nmarkers = openvino")
    pytester.makepyfile(
        "import pytest\n@pytest.mark.openvino\ndef test_it() -> None: pass"
    )
    monkeypatch.setitem(requirements.COMPONENTS, "openvino", lambda: "not today")
    return pytester


def test_missing_component_skips_with_the_reason(
    run_without_openvino: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OVFUSE_REQUIRE", "fuse")
    result = run_without_openvino.runpytest_inprocess("-rs", "-p", "no:randomly")

    result.assert_outcomes(skipped=1)
    result.stdout.fnmatch_lines(["*openvino: not today*"])


def test_missing_component_fails_where_it_is_required(
    run_without_openvino: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OVFUSE_REQUIRE", "fuse,openvino")
    result = run_without_openvino.runpytest_inprocess("-p", "no:randomly")

    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*required here: openvino: not today*"])


def test_unknown_component_is_refused() -> None:
    assert requirements.required({}) == frozenset()
    assert requirements.required({"OVFUSE_REQUIRE": "fuse,openvino"}) == {
        "fuse",
        "openvino",
    }
    with pytest.raises(ValueError, match=r"OVFUSE_REQUIRE: fues: not one of"):
        requirements.required({"OVFUSE_REQUIRE": "fues,systemd"})


def run_leftovers(script: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tests.support.leftovers", "sh", "-c", script],
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_status_of_a_command_that_leaves_nothing_is_kept() -> None:
    result = run_leftovers("setsid sleep 0.2 & exit 3")

    assert (result.returncode, result.stderr) == (3, "")


@pytest.mark.slow
def test_detached_process_is_found_and_ended() -> None:
    result = run_leftovers("(setsid sleep 98765 >/dev/null 2>&1 &) ; exit 0")

    assert result.returncode == 1
    assert "sleep 98765" in result.stderr
