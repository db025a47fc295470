"""ovfuse and its units in a container, and programs of other units."""

import os
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.boot.delivery import INSTALL, deliver
from tests.mount import survival_reader
from tests.support import requirements
from tests.support.container import ROOT, Container, booted, missing, own_suite
from tests.support.users import open_directory
from tests.support.waiting import wait_until

__all__ = [
    "Program",
    "Readers",
    "Service",
    "has_checkout",
    "installed",
    "require_container",
]

PUBLISHER = "/srv/publisher"
BUSY = ("activating", "deactivating", "reloading")


def require_container(suite: str = "") -> None:
    """Skip the test where none can be booted, or fail it; see `booted`."""
    if os.geteuid() != 0:
        pytest.skip("only root can boot a container")
    if reason := missing(suite):
        if "systemd" in requirements.required(os.environ):
            pytest.fail(f"required here: systemd: {reason}")
        pytest.skip(reason)


def has_checkout(suite: str) -> bool:
    """Whether a container of that version has the tests' own ovfuse, and OpenVINO.

    It then has the machine's Python. Others have what scripts/install puts there.
    """
    return suite in {"", own_suite()}


@contextmanager
def installed(suite: str = "") -> Iterator[Container]:
    """Give a container with ovfuse, its units and a publisher.

    Args:
        suite: its version of Debian; the machine's if none is named.
    """
    clean = "" if has_checkout(suite) else suite
    require_container(clean)
    with open_directory() as scratch, booted(scratch, clean) as container:
        if clean:
            deliver(container, clean)
            container.run(*INSTALL)
            container.python = "/opt/ovfuse/current/bin/python"
        else:
            units = sorted((ROOT / "systemd").glob("*.service"))
            container.run("cp", *units, "/etc/systemd/system")
            container.run("systemctl", "daemon-reload")
            container.run("groupadd", "--system", "ovfuse")
        _make_publisher(container)
        yield container


def _make_publisher(container: Container) -> None:
    publish(container, "keygen")
    container.run("mkdir", "-p", "/etc/ovfuse/trusted")
    trusted = f"{PUBLISHER}/ovfuse/trusted"
    container.run("cp", "-r", f"{trusted}/.", "/etc/ovfuse/trusted")


def publish(container: Container, *words: str) -> None:
    """Run a command with the publisher's keys, which the unit does not have."""
    container.run("env", f"XDG_CONFIG_HOME={PUBLISHER}", "ovfuse", *words)


class Program:
    """A transient unit: a program that runs until it is told to end.

    Args:
        container: where it runs.
        name: of the unit.
        words: its command; it gets an input that is never at its end.
    """

    def __init__(self, container: Container, name: str, words: Sequence[str]) -> None:
        self._container = container
        self.unit = f"{name}.service"
        self._input = f"/run/{name}.input"
        container.run("mkfifo", self._input)
        script = 'input=$1; shift; exec "$@" 0<>"$input"'
        container.run(
            *("systemd-run", "--quiet", f"--unit={name}", "--property=Type=exec"),
            *("--property=RemainAfterExit=yes", "--property=WorkingDirectory=/"),
            *("sh", "-c", script, "sh", self._input, *words),
        )

    def say(self) -> None:
        """Give it a line."""
        self._container.run("sh", "-c", 'echo >"$1"', "sh", self._input)

    def end(self) -> None:
        """Tell it to end; it must have seen nothing wrong."""
        if self.is_at_work:
            self.say()
        wait_until(lambda: not self.is_at_work)
        log = self._container.run("journalctl", "--no-pager", "-u", self.unit)
        assert self._show("Result") == "success", log.stdout

    @property
    def is_at_work(self) -> bool:
        """Whether it runs."""
        return self._show("SubState") == "running"

    def _show(self, name: str) -> str:
        shown = self._container.run("systemctl", "show", "-P", name, self.unit)
        return shown.stdout.strip()


class Service:
    """An instance of the unit, for a model sealed in the container.

    Args:
        container: where it is.
        name: of the instance.
        plain: the model directory, outside.
        options: after -o.
    """

    def __init__(
        self, container: Container, name: str, plain: Path, options: str = ""
    ) -> None:
        self.container = container
        self.name = name
        self.unit = f"ovfuse@{name}.service"
        self.plain, self.cipherdir = f"/srv/{name}.plain", f"/srv/{name}.sealed"
        self.mountpoint = f"/srv/{name}"
        self.configuration = f"/etc/ovfuse/{name}.conf"
        container.run("mkdir", self.mountpoint, self.plain)
        self.seal(plain)
        self.give_identity(f"{PUBLISHER}/ovfuse/identity.txt")
        self.configure(options)

    def seal(self, plain: Path) -> None:
        """Make the next version of the model."""
        inside = self.container.path(self.plain)
        shutil.rmtree(inside)
        shutil.copytree(plain, inside)
        publish(self.container, "encrypt", self.plain, self.cipherdir)

    def give_identity(self, path: str) -> None:
        """Encrypt an identity for this machine, which the unit gets as a credential."""
        self.container.run(
            *("systemd-creds", "encrypt", "--with-key=host", "--name=ovfuse.identity"),
            *(path, f"/etc/ovfuse/{self.name}.identity.cred"),
        )

    def configure(self, options: str) -> None:
        """Write the file that says what is mounted, and how."""
        self.container.run(
            *("sh", "-c", 'cat >"$1"', "sh", self.configuration),
            given=f"CIPHERDIR={self.cipherdir}\nMOUNTPOINT={self.mountpoint}\n"
            f"OPTIONS={options}\n",
        )

    def override(self, text: str) -> None:
        """Have other settings in the unit, of this instance alone."""
        directory = f"/etc/systemd/system/{self.unit}.d"
        self.container.run("mkdir", "-p", directory)
        script = 'cat >"$1"'
        self.container.run(
            "sh", "-c", script, "sh", f"{directory}/test.conf", given=text
        )
        self.container.run("systemctl", "daemon-reload")

    def systemctl(self, *words: str, check: bool = True) -> str:
        """Do something with the unit."""
        done = self.container.run("systemctl", *words, self.unit, check=check)
        return done.stdout.strip()

    def show(self, name: str) -> str:
        """Return a property of the unit."""
        return self.systemctl("show", "-P", name)

    def start(self) -> "Service":
        """Start it; more often than systemd would allow to somebody else."""
        self.systemctl("reset-failed", check=False)
        self.systemctl("start")
        return self

    def kill(self, whom: str, number: str = "KILL") -> None:
        """Kill `main` or `all` of its processes, and wait until another one serves."""
        self.systemctl("reset-failed", check=False)
        before = self.show("MainPID")
        self.systemctl("kill", "-s", number, f"--kill-whom={whom}")
        wait_until(lambda: self.show("MainPID") not in {before, "0"})
        self.wait()

    def happen(self, event: str) -> None:
        """Kill the `daemon`, `main` or `all`; or what systemctl knows as `event`."""
        if event == "daemon":
            before = self.daemon
            self.container.run("kill", "-KILL", before)
            wait_until(lambda: self.daemon != before)
        elif event in {"main", "all"}:
            self.kill(event)
        else:
            self.systemctl("reset-failed", check=False)
            self.systemctl(event)

    def wait(self) -> None:
        """Return when nothing is about to change."""
        wait_until(lambda: self.show("ActiveState") not in BUSY)

    @property
    def log(self) -> str:
        """What the unit has said."""
        words = ("journalctl", "--no-pager", "-o", "cat", "-u", self.unit)
        return self.container.run(*words).stdout

    @property
    def is_mounted(self) -> bool:
        """Whether anything is."""
        return (
            f" {self.mountpoint} "
            in self.container.run("cat", "/proc/self/mountinfo").stdout
        )

    @property
    def stored(self) -> int:
        """How many descriptors systemd keeps for the unit."""
        return int(self.show("NFileDescriptorStore"))

    @property
    def daemon(self) -> str:
        """The process that serves, of this moment, as the container numbers it."""
        found = ""

        def is_there() -> bool:
            nonlocal found
            keeper = self.show("MainPID")
            done = self.container.run("pgrep", "-o", "-P", keeper, check=False)
            found = done.stdout.strip()
            return bool(found)

        wait_until(is_there)
        return found

    def is_gone(self) -> bool:
        """Whether nothing of it is left: no process, mount or descriptor."""
        ended = f"ovfuse-ended@{self.name}.service"
        state = self.container.run(
            "systemctl", "show", "-P", "ActiveState", ended
        ).stdout.strip()
        return (
            self.show("ActiveState") in {"inactive", "failed"}
            and state == "inactive"
            and not self.is_mounted
            and self.stored == 0
        )

    def sha256(self, name: str) -> str:
        """Return the hash of a file, read through the mount by another unit."""
        done = self.container.run(
            *("systemd-run", "--quiet", "--pipe", "--wait", "--collect"),
            *("timeout", "20", "sha256sum", f"{self.mountpoint}/{name}"),
        )
        return done.stdout.split()[0]

    @contextmanager
    def reading(self, *kinds: str) -> Iterator["Readers"]:
        """Have programs read the mount; in the end nothing must have been wrong."""
        places = self.mountpoint, self.plain
        readers = Readers(self.container, [self.container.python], kinds, places)
        yield readers
        readers.end()


class Readers:
    """Programs that compare a mount with the plain directory, again and again.

    Args:
        container: where they run.
        python: how it is called there.
        kinds: as the reader knows them.
        places: the mountpoint, and the plain directory.
    """

    def __init__(
        self,
        container: Container,
        python: Sequence[str],
        kinds: Sequence[str],
        places: tuple[str, str],
    ) -> None:
        self._container = container
        self._programs: dict[str, Program] = {}
        for kind in kinds:
            name = f"reader-{kind}-{time.monotonic_ns()}"
            progress = f"/run/{name}.progress"
            words = [*python, survival_reader.__file__, kind, *places, progress]
            self._programs[progress] = Program(container, name, words)

    def wait_for_progress(self) -> None:
        """Return when each of them has read all, from now on."""
        wanted = {path: self._rounds(path) + 2 for path in self._programs}
        wait_until(lambda: all(self._rounds(p) >= n for p, n in wanted.items()))

    def end(self) -> None:
        """End them; see `Program.end`."""
        for program in self._programs.values():
            program.end()

    def _rounds(self, progress: str) -> int:
        program = self._programs[progress]
        if not program.is_at_work:
            program.end()  # which fails
        path = self._container.path(progress)
        return int.from_bytes(path.read_bytes(), "big") if path.exists() else 0
