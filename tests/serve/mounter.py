"""Starts tests.serve.memory_mount as a process of its own and cleans up after it."""

import os
import signal
import subprocess
import sys
import sysconfig
from pathlib import Path

from ovfuse.serve.control import ask, runtime_directory, socket_path
from ovfuse.serve.mounts import find_mount
from ovfuse.serve.status import MountStatus, mount_status
from tests.support.waiting import wait_until

ROOT = Path(__file__).parents[2]
NOBODY = 65534


class Mounter:
    """Mounts one directory on one mountpoint, as often as a test likes."""

    def __init__(
        self, engine: str, source: Path, mountpoint: Path, scratch: Path
    ) -> None:
        self.source = source
        self.mountpoint = mountpoint
        self.gate = scratch / "gate"
        self.closed = scratch / "closed"
        self.opening = scratch / "opening"
        self.log = scratch / "log"
        self.environment = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": f"{ROOT}:{sysconfig.get_path('purelib')}",
            "OVFUSE_TEST_GATE": f"{self.gate}",
            "OVFUSE_TEST_CLOSED": f"{self.closed}",
            "OVFUSE_TEST_OPENING": f"{self.opening}",
        }
        self.python = sys.executable
        self.uid = os.getuid()
        self.cwd = Path("/")
        self.engine = engine
        self._started: list[subprocess.Popen[str]] = []
        self._daemons: set[int] = set()

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Start the mount command, its output piped."""
        options = ["-o", f"engine={self.engine}", "-o", f"log={self.log}"]
        as_other = self.uid != os.getuid()
        process = subprocess.Popen(
            [
                *(self.python, "-m", "tests.serve.memory_mount", *options, *arguments),
                *(f"{self.source}", f"{self.mountpoint}"),
            ],
            env=self.environment,
            cwd=self.cwd,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            user=self.uid if as_other else None,
            group=self.uid if as_other else None,
            extra_groups=[] if as_other else None,
        )
        self._started.append(process)
        return process

    def mount(self, *arguments: str) -> int:
        """Mount in the background; return the daemon's pid."""
        code, _, errors = self.run(*arguments)
        assert code == 0, errors
        status = self.status()
        assert status.state == "serving"
        assert status.pid is not None
        self._daemons.add(status.pid)
        return status.pid

    def mount_in_foreground(self, *arguments: str) -> subprocess.Popen[str]:
        """Mount and stay; return when the mount answers."""
        process = self.start("-f", *arguments)
        wait_until(lambda: process.poll() is not None or self.is_serving())
        assert process.poll() is None, process.communicate()
        return process

    def run(self, *arguments: str) -> tuple[int, str, str]:
        """Run the mount command to its end."""
        process = self.start(*arguments)
        output, errors = process.communicate(timeout=60)
        return process.returncode, output, errors

    def status(self) -> MountStatus:
        """Return what is known of the mount."""
        mount = find_mount(self.mountpoint)
        assert mount is not None
        return mount_status(mount)

    def is_mounted(self) -> bool:
        """Return whether anything is mounted there."""
        return find_mount(self.mountpoint) is not None

    def is_slow(self, daemon: int) -> bool:
        """Return whether a daemon is at work on `slow`; see memory_view."""
        slow = self.gate.with_suffix(".slow")
        return slow.exists() and slow.read_text() == f"{daemon}"

    def is_serving(self) -> bool:
        """Return whether a daemon answers for it."""
        return self.is_mounted() and self.status().state == "serving"

    def socket(self) -> Path:
        """Return the control socket of the daemon."""
        own = None if self.uid == os.getuid() else self.uid
        return socket_path(self.mountpoint, runtime_directory(own))

    def end(self) -> None:
        """Stop what runs; then nothing may be mounted, running or listening."""
        answer = ask(self.socket(), self.uid)
        if answer is not None:
            self._daemons.add(answer["pid"])
        for process in self._started:
            if process.poll() is None:
                process.terminate()
            process.communicate(timeout=60)
        for daemon in self._daemons:
            end_process(daemon)
        left = self.is_mounted()
        while self.is_mounted():
            subprocess.run(["umount", "-l", self.mountpoint], check=True)
        assert not left, "a mount was left behind"
        assert not self.socket().exists()


def end_process(pid: int) -> None:
    """End a process with SIGTERM and wait until it is gone."""
    try:
        os.kill(pid, signal.SIGTERM)
    except ProcessLookupError:
        return
    wait_until(lambda: is_gone(pid))


def is_gone(pid: int) -> bool:
    """Return whether the process has ended; a zombie has."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text("utf-8", "replace")
    except (FileNotFoundError, ProcessLookupError):
        return True
    return state.rpartition(")")[2].split()[0] == "Z"
