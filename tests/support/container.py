"""A whole system of its own: real systemd in a container that this machine boots.

The root directory is made once, by debootstrap, and kept below .cache; each container
writes to a layer upon it. It has the checkout, read-only, and so the same ovfuse with
the same Python. Nothing of it outlives whoever booted it: it lives in a PID namespace
and a mount namespace, whose first process is killed with its parent.
"""

import fcntl
import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.support.process_memory import descendants_of
from tests.support.waiting import wait_until

__all__ = ["Container", "booted", "missing"]

ROOT = Path(__file__).parents[2]

_CACHE = ROOT / ".cache" / "container"
_PACKAGES = ("systemd", "systemd-sysv", "dbus", "fuse3", "python3", "procps")
_COMMANDS = ("debootstrap", "systemd-nspawn", "nsenter", "setpriv", "unshare")
_CGROUPS = Path("/sys/fs/cgroup")
_CGROUP = "ovfuse-test."
_SECONDS = 60.0
"""For any one command inside."""

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


def missing() -> str:
    """Why not even root can boot a container here, or an empty string."""
    for command in _COMMANDS:
        if shutil.which(command) is None:
            return f"{command} is not on PATH"
    if platform.freedesktop_os_release().get("ID") != "debian":
        return "the container is made of Debian's packages, as the machine must be"
    if not os.path.realpath(sys.executable).startswith("/usr/bin/"):
        return "the container has another Python than the tests"
    return ""


class Container:
    """A system that runs; see `booted`."""

    def __init__(self, init: int) -> None:
        self.init = init
        """The number of its first process, outside."""

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
def booted(scratch: Path) -> Iterator[Container]:
    """Boot, and give a container in which systemd is done with that; end it after.

    Args:
        scratch: an empty directory.
    """
    root = _made_root()
    _remove_cgroups()
    log = scratch / "console"
    mountpoint = scratch / "container"
    mountpoint.mkdir()
    group = f"{_CGROUP}{os.getpid()}.{scratch.stat().st_ino}"
    begin = ["setpriv", "--pdeathsig", "KILL", "sh", "-c", _BEGIN, "sh", group]
    boot = [sys.executable, "-m", "tests.support.container_boot"]
    with log.open("wb") as console:
        outermost = subprocess.Popen(
            [*begin, *_cgroup_trees(), "--", *boot, root, mountpoint, ROOT],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=console,
            stderr=console,
            start_new_session=True,
        )
    try:
        container = Container(_init_below(outermost, log))
        container.run("systemctl", "is-system-running", "--wait", check=False)
        program = Path(sys.executable).with_name("ovfuse")
        container.run("ln", "-s", program, "/usr/local/bin/ovfuse")
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


def _made_root() -> Path:
    """Return the root directory that all containers share, made if there is none."""
    suite = platform.freedesktop_os_release()["VERSION_CODENAME"]
    key = hashlib.sha256(" ".join((suite, *_PACKAGES)).encode()).hexdigest()[:16]
    root = _CACHE / key
    _CACHE.mkdir(parents=True, exist_ok=True)
    with (_CACHE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not root.is_dir():
            new = _CACHE / "new"
            shutil.rmtree(new, ignore_errors=True)
            _bootstrap(suite, new)
            new.rename(root)
    return root


def _bootstrap(suite: str, root: Path) -> None:
    done = subprocess.run(
        [
            "debootstrap",
            "--variant=minbase",
            f"--include={','.join(_PACKAGES)}",
            suite,
            root,
            *_mirror(suite),
        ],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]


def _mirror(suite: str) -> list[str]:
    """Return where this machine's own packages come from, if it says so."""
    wanted = ("Created-By: Packages", f"Codename: {suite}", "Component: main")
    words = ["apt-get", "indextargets", "--format", "$(REPO_URI) $(LABEL)", *wanted]
    said = subprocess.run(words, capture_output=True, text=True, check=False).stdout
    found = [line.split() for line in said.splitlines()]
    return [words[0] for words in found if words[1:] == ["Debian"]][:1]
