"""A whole system of its own: real systemd in a container that this machine boots.

The root directory is made once for each version of Debian, by debootstrap, and kept
below .cache; each container writes to a layer upon it, which outlives a reboot. It has
the checkout, read-only, and so the same ovfuse, if it has that Python. Nothing of it
outlives whoever booted it: it lives in a PID namespace and a mount namespace, whose
first process is killed with its parent.
"""

import os
import platform
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from tests.support.made_once import made_once
from tests.support.process_memory import descendants_of
from tests.support.waiting import wait_until

__all__ = ["SUITES", "TPM", "Container", "booted", "missing", "own_suite"]

ROOT = Path(__file__).parents[2]

_CACHE = ROOT / ".cache" / "container"
_PACKAGES = (
    *("systemd", "systemd-sysv", "dbus", "fuse3", "python3", "procps"),
    "python3-venv",  # which scripts/install could not get: there is no network
)
_MORE_PACKAGES = {
    "bookworm": ("libtss2-esys-3.0.2-0", "libtss2-rc0", "libtss2-mu0"),
    "trixie": (
        *("libtss2-esys-3.0.2-0t64", "libtss2-rc0t64", "libtss2-mu-4.0.1-0t64"),
        "e2fsprogs",  # which any system had before
    ),
}
"""What systemd-creds loads if there is a TPM, and what scripts/install asks for."""
SUITES = tuple(_MORE_PACKAGES)
"""The versions of Debian that can be booted, besides the machine's."""
_COMMANDS = ("debootstrap", "systemd-nspawn", "nsenter", "setpriv", "unshare")
_CGROUPS = Path("/sys/fs/cgroup")
_CGROUP = "ovfuse-test."
_SECONDS = 180.0
"""For any one command inside; an installation is one."""

# Cgroups of its own, for nspawn to use; then namespaces, which end with this process.
_BEGIN = """
set -eu
group=$1; shift
while [ "$1" != -- ]; do
    mkdir "$1/$group"
    echo $$ >"$1/$group/cgroup.procs"
    shift
done
shift
exec unshare --mount --pid --fork --kill-child --mount-proc "$@"
"""


def missing(suite: str = "") -> str:
    """Why not even root can boot a container here, or an empty string.

    Args:
        suite: as for `booted`.
    """
    for command in _COMMANDS:
        if shutil.which(command) is None:
            return f"{command} is not on PATH"
    if not own_suite():
        return "the container is made of Debian's packages, as the machine must be"
    if not suite and not os.path.realpath(sys.executable).startswith("/usr/bin/"):
        return "the container has another Python than the tests"
    return ""


def own_suite() -> str:
    """Return the machine's version of Debian; nothing if that is another system."""
    with suppress(OSError):
        facts = platform.freedesktop_os_release()
        if facts.get("ID") == "debian":
            return facts.get("VERSION_CODENAME", "")
    return ""


class TPM:
    """Where systemd looks for a TPM, which may be run in the container's network."""

    port: Final = 2321
    tcti: Final = f"swtpm:host=127.0.0.1,port={port}"
    server: Final = f"type=tcp,port={port},bindaddr=127.0.0.1"
    control: Final = f"type=tcp,port={port + 1},bindaddr=127.0.0.1"


class Container:
    """A system that runs; see `booted`."""

    def __init__(self, outermost: "subprocess.Popen[bytes]", log: Path) -> None:
        self._outermost, self._log = outermost, log
        self.init = 0
        """The number of its first process, outside."""
        self.python = "/usr/bin/python3"
        """Once there is an ovfuse, the interpreter that has what ovfuse needs."""
        self._wait_for_boot()

    def run(
        self, *command: str | os.PathLike[str], check: bool = True, given: str = ""
    ) -> "subprocess.CompletedProcess[str]":
        """Run a command inside to its end; what is to stay is for systemd to start.

        Args:
            command: the words of it.
            check: whether it must succeed.
            given: its input.
        """
        enter = ["nsenter", "--all", "--root", "--wd", "-t", f"{self.init}", "--"]
        done = subprocess.run(
            [
                *enter,
                "env",
                "-i",
                "PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
                *command,
            ],
            capture_output=True,
            text=True,
            input=given,
            timeout=_SECONDS,
            check=False,
        )
        assert not check or done.returncode == 0, (command, done)
        return done

    def reboot(self) -> None:
        """Let it boot once more; what it has written stays, but for /run and /tmp."""
        before = Path(f"/proc/{self.init}")
        self.run("systemctl", "reboot", check=False)  # it may end before it answers
        wait_until(lambda: not before.exists())
        self._wait_for_boot()

    def _wait_for_boot(self) -> None:
        self.init = _init_below(self._outermost, self._log)
        self.run("systemctl", "is-system-running", "--wait", check=False)

    def path(self, inside: str) -> Path:
        """Return where a path inside is, outside."""
        return Path(f"/proc/{self.init}/root{inside}")

    def process(self, inside: int) -> int:
        """Return the number that a process inside has outside."""
        for pid in descendants_of(self.init):
            with suppress(FileNotFoundError, ProcessLookupError):
                status = Path(f"/proc/{pid}/status").read_text("utf-8", "replace")
                found = re.search(r"^NSpid:.*\s([0-9]+)$", status, re.MULTILINE)
                if found is not None and int(found[1]) == inside:
                    return pid
        raise AssertionError(f"no process {inside}")


@contextmanager
def booted(scratch: Path, suite: str = "") -> Iterator[Container]:
    """Boot, and give a container in which systemd is done with that; end it after.

    Args:
        scratch: an empty directory.
        suite: the version of Debian, one of `SUITES`; that container is clean. Without,
            it is the machine's, and has the tests' own ovfuse in /usr/local/bin.
    """
    root = _made_root(suite or own_suite())
    _remove_cgroups()
    log = scratch / "console"
    mountpoint = scratch / "container"
    mountpoint.mkdir()
    group = f"{_CGROUP}{os.getpid()}.{time.monotonic_ns()}"
    begin = ["setpriv", "--pdeathsig", "KILL", "sh", "-c", _BEGIN, "sh", group]
    boot = [sys.executable, "-m", "tests.support.container_boot"]
    with log.open("wb") as console:
        outermost = subprocess.Popen(
            [*begin, *_cgroup_trees(), "--", *boot, root, mountpoint, ROOT, TPM.tcti],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=console,
            stderr=console,
            start_new_session=True,
        )
    try:
        container = Container(outermost, log)
        if not suite:
            program = Path(sys.executable).with_name("ovfuse")
            container.run("ln", "-s", program, "/usr/local/bin/ovfuse")
            container.python = sys.executable
        yield container
    finally:
        outermost.kill()  # and with it, by --kill-child, everything
        outermost.wait()
        _remove_cgroups()


def _cgroup_trees() -> list[Path]:
    """Return what systemd needs to write to: of both versions where there are both."""
    found = [_CGROUPS / name for name in ("systemd", "unified")]
    return [tree for tree in found if tree.is_dir()] or [_CGROUPS]


def _remove_cgroups() -> None:
    """Remove those of containers that have ended; all others are not empty."""
    for tree in _cgroup_trees():
        for own in tree.glob(f"{_CGROUP}*"):
            for directory, _, _ in os.walk(own, topdown=False):
                with suppress(OSError):
                    Path(directory).rmdir()


def _init_below(outermost: "subprocess.Popen[bytes]", log: Path) -> int:
    """Return the container's first process, once systemd listens."""
    found: list[int] = []

    def is_up() -> bool:
        assert outermost.poll() is None, log.read_text("utf-8", "replace")
        for pid in _below(outermost.pid):
            with suppress(OSError):
                if Path(f"/proc/{pid}/root/run/systemd/private").exists():
                    found.append(pid)
                    return True
        return False

    wait_until(is_up)
    return found[0]


def _below(pid: int) -> Iterator[int]:
    """Yield the descendants of a process that have a root directory of their own."""
    here = Path("/").stat()
    with suppress(OSError):
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text("ascii").split()
        for child in map(int, children):
            with suppress(OSError):
                if not os.path.samestat(Path(f"/proc/{child}/root").stat(), here):
                    yield child
            yield from _below(child)


def _made_root(suite: str) -> Path:
    """Return the root directory that all containers share, made if there is none."""
    packages = (*_PACKAGES, *_MORE_PACKAGES.get(suite, ()))
    text = " ".join((suite, *packages))
    return made_once(_CACHE, text, lambda root: _bootstrap(suite, packages, root))


def _bootstrap(suite: str, packages: Sequence[str], root: Path) -> None:
    done = subprocess.run(
        [
            "debootstrap",
            "--variant=minbase",
            f"--include={','.join(packages)}",
            suite,
            root,
            *_mirror(),
        ],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]


def _mirror() -> list[str]:
    """Return where this machine's own packages come from, if it says so."""
    own = f"Codename: {own_suite()}"
    wanted = ("Created-By: Packages", own, "Component: main")
    words = ["apt-get", "indextargets", "--format", "$(REPO_URI) $(LABEL)", *wanted]
    said = subprocess.run(words, capture_output=True, text=True, check=False).stdout
    found = [line.split() for line in said.splitlines()]
    return [words[0] for words in found if words[1:] == ["Debian"]][:1]
