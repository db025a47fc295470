"""The program as its users run it: a home of one's own, commands, real mounts.

`run_ovfuse` runs a command to its end, `refused` one that must fail properly,
`mounted` mounts and leaves nothing behind. Everything is said through the command
line, and everything is read off it, /proc and the kernel.
"""

import functools
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypedDict

from ovfuse.errors import OvfuseError
from tests.support.users import usable_fuse
from tests.support.waiting import wait_until

__all__ = [
    "ENGINES",
    "OVFUSE",
    "STAYING_ENGINES",
    "Completed",
    "Home",
    "Mount",
    "check_error_lines",
    "daemons_of",
    "is_gone",
    "is_mounted",
    "mounted",
    "mounts_at",
    "refused",
    "refused_mount",
    "run_as",
    "run_ovfuse",
    "start_ovfuse",
    "status_of",
    "succeed",
]

ENGINES = ("kernel", "libfuse")
"""What `-o engine=` takes, the default first; tests of real mounts run with each."""

STAYING_ENGINES = frozenset({"libfuse"})
"""Those that show the sealing they started with until they are mounted again."""

OVFUSE = (os.fspath(Path(sys.executable).with_name("ovfuse")),)

TIMEOUT_SECONDS = 300

Completed = subprocess.CompletedProcess[str]


@dataclass(frozen=True, kw_only=True)
class Home:
    """An account with a home directory that nobody else uses.

    Attributes:
        directory: made if it is missing.
        uid: of the account; its gid is the same.
        program: the command that starts ovfuse; see `users.users_program`.
        extra: further environment.
    """

    directory: Path
    uid: int = field(default_factory=os.geteuid)
    program: tuple[str, ...] = OVFUSE
    extra: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Make home and runtime directory, as a login does."""
        for path in (self.directory, self.runtime):
            if not path.exists():
                self.make_directory(path, 0o700)

    @property
    def runtime(self) -> Path:
        """$XDG_RUNTIME_DIR; root does not use it."""
        return self.directory / "run"

    @property
    def config(self) -> Path:
        """Where ovfuse keeps the keys of this account."""
        return self.directory / "config" / "ovfuse"

    @property
    def identity(self) -> Path:
        """The identity file that `keygen` makes."""
        return self.config / "identity.txt"

    @property
    def public_key(self) -> Path:
        """The publisher's public key that `keygen` makes."""
        return self.config / "signing_key.pub"

    @property
    def recipient(self) -> str:
        """The recipient of the identity."""
        found = re.search("public key: (age1[0-9a-z]+)", self.identity.read_text())
        assert found is not None
        return found[1]

    @property
    def environment(self) -> dict[str, str]:
        """All that a command of this account sees."""
        return {
            "PATH": os.environ["PATH"],
            "LANG": "C.UTF-8",
            "CI": "true",
            "HOME": os.fspath(self.directory),
            "XDG_CONFIG_HOME": os.fspath(self.directory / "config"),
            "XDG_STATE_HOME": os.fspath(self.directory / "state"),
            "XDG_CACHE_HOME": os.fspath(self.directory / "cache"),
            "XDG_RUNTIME_DIR": os.fspath(self.runtime),
            **self.extra,
        }

    @property
    def is_other(self) -> bool:
        """Whether the account is not this process's."""
        return self.uid != os.geteuid()

    def make_directory(self, path: Path, mode: int = 0o755) -> Path:
        """Make a directory that belongs to the account."""
        path.mkdir(mode=mode)
        if self.is_other:
            os.chown(path, self.uid, self.uid)
        return path


class _Options(TypedDict, total=False):
    """The part of Popen's keywords that says who runs it, and where."""

    env: dict[str, str]
    cwd: Path
    stdin: int
    stdout: int
    stderr: int
    text: bool
    errors: str
    user: int
    group: int
    extra_groups: list[int]


def _options(home: Home, cwd: Path | None) -> _Options:
    options = _Options(
        env=home.environment,
        cwd=cwd or home.directory,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="surrogateescape",
    )
    if home.is_other:
        options["user"] = options["group"] = home.uid
        options["extra_groups"] = []
    return options


def run_as(
    home: Home, *command: str | os.PathLike[str], cwd: Path | None = None
) -> Completed:
    """Run any command as the account, to its end."""
    return subprocess.run(
        list(command), check=False, timeout=TIMEOUT_SECONDS, **_options(home, cwd)
    )


def run_ovfuse(
    home: Home, *arguments: str | os.PathLike[str], cwd: Path | None = None
) -> Completed:
    """Run an ovfuse command to its end; whether it failed is for the caller."""
    with usable_fuse() if _needs_fuse(home, arguments) else nullcontext():
        return run_as(home, *home.program, *arguments, cwd=cwd)


def start_ovfuse(
    home: Home, *arguments: str | os.PathLike[str], cwd: Path | None = None
) -> subprocess.Popen[str]:
    """Start an ovfuse command, its output piped; the caller waits for it."""
    return subprocess.Popen([*home.program, *arguments], **_options(home, cwd))


def _needs_fuse(home: Home, arguments: tuple[str | os.PathLike[str], ...]) -> bool:
    return home.is_other and arguments[:1] == ("mount",)


def succeed(
    home: Home, *arguments: str | os.PathLike[str], cwd: Path | None = None
) -> str:
    """Run an ovfuse command that must succeed; return what it printed."""
    done = run_ovfuse(home, *arguments, cwd=cwd)
    assert done.returncode == 0, done.stderr
    return done.stdout


def refused(
    home: Home,
    error: type[OvfuseError],
    *arguments: str | os.PathLike[str],
    cwd: Path | None = None,
) -> str:
    """Run a command that must fail as its class of error says; return what it said.

    One line says why, a hint may follow, notes and warnings may come before; nothing
    else is printed.
    """
    done = run_ovfuse(home, *arguments, cwd=cwd)
    assert done.returncode == error.exit_code, (done.returncode, done.stderr)
    assert done.stdout == ""
    check_error_lines(done.stderr)
    return done.stderr


def refused_mount(
    home: Home,
    error: type[OvfuseError],
    cipherdir: Path,
    mountpoint: Path,
    *arguments: str | os.PathLike[str],
    engine: str,
) -> str:
    """As `refused`, for a mount: nothing may be mounted, and no daemon run."""
    before = mounts_at(mountpoint)
    options = ("-o", f"engine={engine}", *arguments)
    said = refused(home, error, "mount", *options, cipherdir, mountpoint)
    assert mounts_at(mountpoint) == before
    assert daemons_of(mountpoint) == []
    return said


def check_error_lines(stderr: str) -> None:
    """Assert that notes come first, then one error and perhaps one hint."""
    assert stderr.endswith("\n")
    lines = stderr.removesuffix("\n").split("\n")
    if lines[-1].startswith("hint: "):
        lines.pop()
    *before, last = lines
    assert last.startswith("ovfuse: error: "), stderr
    for line in before:
        assert line.startswith("ovfuse: "), stderr
        assert not line.startswith("ovfuse: error: "), stderr
    assert all(line.isprintable() for line in lines), stderr


@dataclass(kw_only=True)
class Mount:
    """A mount that is being served."""

    home: Home
    mountpoint: Path
    ended: bool = False

    @functools.cached_property
    def pid(self) -> int:
        """The daemon, as the status says; to be asked for while it lives."""
        found = self.status()
        assert found["state"] == "serving"
        assert isinstance(found["pid"], int)
        return found["pid"]

    def status(self) -> dict[str, Any]:
        """Return what `ovfuse status --json` says about it."""
        found = status_of(self.home, self.mountpoint)
        assert found is not None
        return found

    def model(self, path: str = "") -> dict[str, Any]:
        """Return what the status says about the sealed model in one place."""
        (found,) = [m for m in self.status()["models"] if m["path"] == path]
        assert isinstance(found, dict)
        return found

    def wait_for_end(self) -> None:
        """Wait until nothing is mounted and the daemon has ended: the test did it."""
        wait_until(
            lambda: not is_mounted(self.mountpoint) and not daemons_of(self.mountpoint)
        )
        self.ended = True


@contextmanager
def mounted(
    home: Home,
    cipherdir: Path,
    mountpoint: Path,
    *arguments: str | os.PathLike[str],
    engine: str,
    foreground: bool = False,
) -> Iterator[Mount]:
    """Mount; at the end unmount by command. Both must succeed and leave nothing.

    A test that ends the mount by itself calls `wait_for_end`.

    Args:
        home: of who mounts.
        cipherdir: as the command takes it.
        mountpoint: made if it is missing; absolute.
        arguments: further ones of `ovfuse mount`.
        engine: for `-o engine=`.
        foreground: with `-f`, in a process that is waited for.
    """
    if not mountpoint.exists():
        home.make_directory(mountpoint)
    command = ("mount", "-o", f"engine={engine}", *arguments, cipherdir, mountpoint)
    process = None
    try:
        if foreground:
            process = _mount_in_foreground(home, mountpoint, *command)
        else:
            done = run_ovfuse(home, *command)
            assert done.returncode == 0, done.stderr
            assert done.stdout == ""
        assert is_mounted(mountpoint)
        assert daemons_of(mountpoint)
        mount = Mount(home=home, mountpoint=mountpoint)
        yield mount
        if not mount.ended:
            assert daemons_of(mountpoint), "the daemon died"
            assert succeed(home, "unmount", mountpoint) == ""
            wait_until(lambda: not daemons_of(mountpoint))
        if process is not None:
            _, stderr = process.communicate(timeout=TIMEOUT_SECONDS)
            assert process.returncode == 0, stderr
    except BaseException:
        _take_away(mountpoint)
        if process is not None:
            process.communicate(timeout=TIMEOUT_SECONDS)
        raise
    assert not _take_away(mountpoint), "a mount or its daemon was left behind"


def _mount_in_foreground(
    home: Home, mountpoint: Path, *command: str | os.PathLike[str]
) -> subprocess.Popen[str]:
    with usable_fuse() if home.is_other else nullcontext():
        process = start_ovfuse(home, command[0], "-f", *command[1:])
        wait_until(lambda: process.poll() is not None or is_mounted(mountpoint))
        wait_until(
            lambda: process.poll() is not None or status_of(home, mountpoint, "serving")
        )
    if process.poll() is not None:
        raise AssertionError(process.communicate())
    return process


def status_of(
    home: Home, mountpoint: Path, state: str | None = None
) -> dict[str, Any] | None:
    """Return what `ovfuse status --json` says about a mount; None if it is not there.

    Args:
        home: of who asks.
        mountpoint: an absolute path.
        state: what else must be so.
    """
    for found in json.loads(succeed(home, "status", "--json")):
        assert isinstance(found, dict)
        if found["mountpoint"] == os.fspath(mountpoint):
            return found if state in (None, found["state"]) else None
    return None


def mounts_at(mountpoint: Path) -> list[bytes]:
    """Return the lines of the kernel's table for what is mounted there."""
    wanted = os.fsencode(mountpoint)
    octal = re.compile(rb"\\([0-7]{3})")
    return [
        line
        for line in Path("/proc/self/mountinfo").read_bytes().splitlines()
        if octal.sub(lambda code: bytes([int(code[1], 8)]), line.split(b" ")[4])
        == wanted
    ]


def is_mounted(mountpoint: Path) -> bool:
    """Return whether anything is mounted there."""
    return bool(mounts_at(mountpoint))


def is_gone(pid: int) -> bool:
    """Return whether the process has ended; a zombie has."""
    try:
        state = Path(f"/proc/{pid}/stat").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return True
    return state.rpartition(b")")[2].split()[0] == b"Z"


def daemons_of(mountpoint: Path) -> list[int]:
    """Return the processes that were told to mount there and run still."""
    wanted = os.fsencode(mountpoint)
    found = []
    for process in Path("/proc").iterdir():
        if not process.name.isdecimal():
            continue
        try:
            words = (process / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        names = {word.rpartition(b"/")[2] for word in words}
        if wanted in words and names & {b"mount", b"mount.fuse.ovfuse"}:
            found.append(int(process.name))
    return found


def _take_away(mountpoint: Path) -> bool:
    """End what is left of a mount; return whether anything was."""
    daemons = daemons_of(mountpoint)
    for pid in daemons:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    left = bool(daemons)
    while is_mounted(mountpoint):
        program = ["umount", "-l"] if os.geteuid() == 0 else ["fusermount3", "-uz"]
        subprocess.run([*program, mountpoint], check=True)
        left = True
    return left
