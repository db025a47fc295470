"""What the audit remembers: bounded, and by process rather than by number."""

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest

from ovfuse.errors import NoUsableKeyError
from ovfuse.serve import audit
from ovfuse.serve.audit import Audit
from ovfuse.serve.processes import Caller, look_at, start_time
from ovfuse.view.contract import SealingFacts

SEALING = SealingFacts(7, "m", "", 1)
ME = Caller(os.getuid(), os.getgid(), os.getpid())
ERROR = NoUsableKeyError("no identity opens it")


@pytest.fixture(autouse=True)
def _logged(caplog: pytest.LogCaptureFixture) -> None:
    logging.getLogger("ovfuse").propagate = True
    caplog.set_level(logging.INFO, "ovfuse")


def test_process_that_has_a_number_again_is_another_one(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit, "_SAME_SECONDS", 0.0)
    made = Audit(Path("/mnt"))
    for _ in range(3):
        made.opened(ME, SEALING)
    assert len(caplog.records) == 1
    monkeypatch.setattr(audit, "start_time", lambda _: 1)
    process = look_at(ME.pid)._replace(start=1)
    monkeypatch.setattr(audit, "look_at", lambda _: process)
    made.opened(ME, SEALING)

    assert len(caplog.records) == 2
    assert made.opens == 4


def test_account_counts(caplog: pytest.LogCaptureFixture) -> None:
    """The same number at the same time, such as after setuid, is another line."""
    made = Audit(Path("/mnt"))
    for uid in (1, 2, 1):
        made.opened(ME._replace(uid=uid), SEALING)

    assert len(caplog.records) == 2


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit, "_REMEMBERED", 10)
    monkeypatch.setattr(audit, "_ACCOUNTS", 5)
    made = Audit(Path("/mnt"))
    for number in range(100):
        made.opened(Caller(number, 0, 0), SEALING)
        made.denied(Caller(number, 0, 0), b"/x", ERROR)

    assert len(made._threads._entries) == len(made._told._entries) == 10


def test_lines_of_one_account_are_limited(caplog: pytest.LogCaptureFixture) -> None:
    made = Audit(Path("/mnt"))
    for number in range(1000):
        made.opened(ME, SealingFacts(number, "m", "", 1))
    lines = len(caplog.records)
    made.opened(ME._replace(uid=ME.uid + 1), SEALING)

    assert lines == 300
    assert "(no more of this account" in caplog.records[299].getMessage()
    assert len(caplog.records) == 301
    assert made.opens == 1001


def test_what_was_held_back_is_told_later(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = Audit(Path("/mnt"))
    for number in range(50):
        made.denied(ME._replace(pid=-number), b"/x", ERROR)
    assert len(caplog.records) == 20
    monkeypatch.setattr(audit, "_MINUTE", 0.0)
    made.denied(ME, b"/x", ERROR)

    assert "(30 more before)" in caplog.records[20].getMessage()


def test_start_time_is_that_of_the_kernel() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=-1) as process:
        mine, other = start_time(os.getpid()), start_time(process.pid)
        process.communicate(b"\n")

    assert 0 < mine <= other
    assert start_time(process.pid) == 0
    assert look_at(process.pid)[1:] == (0, "?", "?")


def test_name_of_a_process_may_hold_anything() -> None:
    code = "import sys; open('/proc/self/comm', 'wb').write(b') R (\\xff'); input()"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE
    ) as process:
        while look_at(process.pid).name.startswith("python"):
            pass
        found = look_at(process.pid)
        process.communicate(b"\n")

    assert found.name == ") R (\udcff"
    assert found.start > 0
