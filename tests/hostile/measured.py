"""Commands whose time and memory are measured, and whose every byte is looked at."""

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from tests.support.known_secrets import record_output
from tests.support.mounting import Home

__all__ = ["Measured", "check_shown", "peak_of", "run_measured"]

MEMORY_KIB = 100 * 1024
CPU_SECONDS = 5.0
HANG_SECONDS = 120.0


@dataclass(frozen=True)
class Measured:
    """How a command ended, and all that it printed."""

    status: int
    stdout: str
    stderr: str
    cpu_seconds: float
    peak_kib: int

    def check_modest(self) -> None:
        """Assert that it took little of everything."""
        assert self.cpu_seconds < CPU_SECONDS, self.stderr
        assert self.peak_kib < MEMORY_KIB, self.peak_kib


# What a process needs counts from its fork: that of a small one, not of the tests.
_LAUNCHER = """
import json, os, sys
pid = os.posix_spawn(sys.argv[2], sys.argv[2:], os.environ)
_, status, usage = os.wait4(pid, 0)
with open(sys.argv[1], "w") as file:
    cpu = usage.ru_utime + usage.ru_stime
    json.dump([os.waitstatus_to_exitcode(status), cpu, usage.ru_maxrss], file)
"""


def run_measured(home: Home, *arguments: str | os.PathLike[str]) -> Measured:
    """Run an ovfuse command to its end, with nobody to answer a prompt.

    Time is that of the processor, which does not depend on what else runs.

    Raises:
        TimeoutExpired: it hangs.
    """
    with tempfile.NamedTemporaryFile() as result:
        done = subprocess.run(
            [sys.executable, "-IS", "-c", _LAUNCHER, result.name]
            + [os.fspath(word) for word in (*home.program, *arguments)],
            env=home.environment,
            cwd=home.directory,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=True,
            text=True,
            errors="surrogateescape",
            timeout=HANG_SECONDS,
        )
        status, cpu_seconds, peak_kib = json.load(result)
    record_output(done.stdout, done.stderr)
    check_shown(done.stdout, done.stderr)
    return Measured(status, done.stdout, done.stderr, cpu_seconds, peak_kib)


def check_shown(*texts: str) -> None:
    """Assert that nothing that was shown steers a terminal or breaks a line."""
    for text in texts:
        bad = [line for line in text.split("\n") if not line.isprintable()]
        assert bad == []


def peak_of(pid: int) -> int:
    """Return the most memory that a process ever had, in KiB."""
    for line in Path(f"/proc/{pid}/status").read_text("ascii", "replace").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1])
    raise AssertionError("no such process")
