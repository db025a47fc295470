"""What `ovfuse doctor` finds, and what it says about it."""

import json
import os
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ovfuse.errors import TermsError
from ovfuse.sealed.terms import machine_digest
from ovfuse.serve.doctor import finding, leaks, machine, systemd, units
from tests.support.mounting import Home, refused, run_as, run_ovfuse, succeed

LINE = re.compile(r"(ok      |warning |problem ) [^:]+: .+|         .+|machine, .+")


def findings(home: Home, *arguments: str | Path, code: int = 0) -> dict[str, Any]:
    """The findings by topic; of one that comes twice, the last."""
    done = run_ovfuse(home, "doctor", "--json", *arguments)
    assert done.returncode == code, done.stdout
    return {one["topic"]: one for one in json.loads(done.stdout)["findings"]}


def test_report_is_lines_that_say_how_bad_it_is(home: Home) -> None:
    done = run_ovfuse(home, "doctor")

    assert done.returncode in (0, 1)
    assert done.stderr == ""
    assert all(LINE.fullmatch(line) for line in done.stdout.splitlines())


def test_machine_is_what_terms_take(home: Home, plain: Path, scratch: Path) -> None:
    machine = machine_digest()
    if machine is None:
        pytest.skip("no machine-id here")
    said = run_ovfuse(home, "doctor").stdout.splitlines()[-1]
    assert said.endswith(f": {machine}")

    succeed(home, "encrypt", "--machine", machine, plain, scratch / "here")
    succeed(home, "verify", scratch / "here")
    succeed(home, "encrypt", "--machine", "0" * 64, plain, scratch / "there")
    done = run_ovfuse(home, "verify", scratch / "there")
    assert done.returncode == TermsError.exit_code
    arguments = ("decrypt", scratch / "there", scratch / "out")
    refused(home, TermsError, *arguments)


def test_keys_are_looked_for(home: Home, scratch: Path) -> None:
    base = run_ovfuse(home, "doctor").returncode
    assert findings(home, code=base)["identity"]["state"] == "warning"
    assert findings(home, code=base)["trust"]["state"] == "warning"
    succeed(home, "keygen")
    found = findings(home, code=base)
    assert found["identity"]["state"] == found["trust"]["state"] == "ok"
    home.identity.chmod(0o644)
    found = findings(home, code=1)
    assert found["identity"]["state"] == "problem"
    assert "chmod 600" in found["identity"]["advice"]


def test_cipherdir_is_looked_at(home: Home, plain: Path, scratch: Path) -> None:
    succeed(home, "encrypt", plain, scratch / "sealed")
    base = run_ovfuse(home, "doctor").returncode
    found = findings(home, scratch / "sealed", code=base)
    assert found["models"]["detail"].startswith("1 sealed")
    assert found["identity"]["detail"].startswith("on the same disk")
    assert findings(home, scratch / "none", code=1)["models"]["state"] == "problem"
    assert findings(home, plain, code=1)["models"]["state"] == "problem"


def test_core_dumps_are_those_of_the_caller(home: Home) -> None:
    pattern = Path("/proc/sys/kernel/core_pattern").read_text().strip()
    if pattern.startswith("|") or not pattern:
        pytest.skip("the pattern here decides without the limit")
    command = " ".join([*home.program, "doctor", "--json"])
    states = []
    for limit in ("0", "unlimited"):
        # Not the last command: the shell would become it.
        done = run_as(home, "bash", "-c", f"ulimit -c {limit}; {command}; true")
        found = json.loads(done.stdout)["findings"]
        states += [f["state"] for f in found if f["topic"] == "core dumps"]

    assert states == ["ok", "warning"]


def one(check: Callable[[], Iterator[finding.Finding]]) -> finding.Finding:
    return next(check())


def test_what_is_wrong_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.release", lambda: "4.19.0-arm")
    assert one(machine.kernel).state == "warning"
    monkeypatch.setattr("time.time", lambda: 0.0)
    assert one(machine.clock).state == "problem"
    monkeypatch.setattr("shutil.which", lambda _: None)
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    assert one(machine.helper).state == "problem"
    monkeypatch.setattr(machine, "find_library", lambda _: None)
    assert one(machine.library).state == "ok"
    assert "engine=libfuse" in one(machine.library).detail
    lines = ["Filename Type Size Used Priority", "/dev/sda2 partition 1 0 -2"]
    monkeypatch.setattr(leaks, "lines_of", lambda p: lines if "swaps" in f"{p}" else [])
    assert one(leaks.swap).state == "warning"
    lines[1] = "/dev/zram0 partition 1 0 100"
    assert one(leaks.swap).state == "ok"


def test_units_are_nothing_to_speak_of_without_systemd(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(systemd, "runs_here", lambda: False)

    assert list(units.units()) == []


def test_nothing_is_changed(home: Home) -> None:
    before = sorted(os.walk(home.directory))
    run_ovfuse(home, "doctor")

    assert sorted(os.walk(home.directory)) == before


def test_it_runs_where_little_is_there(home: Home) -> None:
    done = subprocess.run(
        [*home.program, "doctor"], env={}, capture_output=True, text=True, check=False
    )

    assert done.returncode in (0, 1)
    assert "Traceback" not in done.stderr
