"""An ordinary user: a directory that he reaches, an ovfuse that he can run, FUSE.

Only root can become one. The checkout and its .venv may be in a directory that is
closed to others, so he gets a copy of the program and what it needs, which is
removed when the run ends.
"""

import fcntl
import importlib.metadata
import os
import re
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

import ovfuse

__all__ = [
    "NOBODY",
    "STRANGER",
    "needs_root",
    "open_directory",
    "usable_fuse",
    "users_program",
]

needs_root = pytest.mark.skipif(
    os.geteuid() != 0, reason="only root may look into a process that leaves no dump"
)

NOBODY = 65534
STRANGER = 54321
"""Nobody at all: the password database has no such account."""

_FUSE_DEVICE = Path("/dev/fuse")
_TRIES = 5


@contextmanager
def open_directory(uid: int | None = None) -> Iterator[Path]:
    """Make an empty directory that every account can reach; remove it at the end.

    Args:
        uid: whose it is; None: this process's.
    """
    directory = Path(tempfile.mkdtemp(prefix="ovfuse-")).resolve()
    try:
        directory.chmod(0o755)
        if uid is not None and uid != os.geteuid():
            os.chown(directory, uid, uid)
        yield directory
    finally:
        _remove(directory)


@contextmanager
def usable_fuse() -> Iterator[None]:
    """Let ordinary users open /dev/fuse meanwhile, as distributions do.

    Whoever does the same in another process waits; only mounting needs it, serving
    does not.
    """
    if stat.S_IMODE(_FUSE_DEVICE.stat().st_mode) & 0o006 == 0o006:
        yield
        return
    device = os.open(_FUSE_DEVICE, os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.flock(device, fcntl.LOCK_EX)
        mode = stat.S_IMODE(os.fstat(device).st_mode)
        _FUSE_DEVICE.chmod(0o666)
        try:
            yield
        finally:
            _FUSE_DEVICE.chmod(mode)
    finally:
        os.close(device)


@contextmanager
def users_program() -> Iterator[tuple[str, ...]]:
    """Give the command that starts ovfuse for whoever may not enter the checkout."""
    with open_directory() as directory:
        libraries = directory / "lib"
        for name in sorted(_needed("ovfuse")):
            _copy_distribution(name, libraries)
        # From where it is: an editable installation lists no modules.
        source = Path(ovfuse.__file__).parent
        shutil.copytree(source, libraries / "ovfuse", dirs_exist_ok=True)
        script = directory / "ovfuse"
        script.write_text(
            f"import sys\nsys.path.insert(0, {os.fspath(libraries)!r})\n"
            "from ovfuse.cli import main\nmain()\n"
        )
        for path in directory.rglob("*"):
            path.chmod(0o755 if path.is_dir() else 0o644)
        python = os.path.realpath(sys.executable)
        yield python, "-I", os.fspath(script)


def _needed(name: str) -> set[str]:
    """Return the installed packages that one needs at run time, and itself."""
    found: set[str] = set()
    waiting = [name]
    while waiting:
        with suppress(importlib.metadata.PackageNotFoundError):  # not on this Python
            required = importlib.metadata.distribution(waiting.pop()).requires or []
            names = {_name(text) for text in required if "extra ==" not in text}
            waiting += names - found
            found |= names
    return {name, *filter(_is_installed, found)}


def _name(requirement: str) -> str:
    match = re.match(r"[A-Za-z0-9._-]+", requirement)
    assert match is not None
    return re.sub(r"[-_.]+", "-", match[0]).lower()


def _is_installed(name: str) -> bool:
    with suppress(importlib.metadata.PackageNotFoundError):
        return importlib.metadata.distribution(name) is not None
    return False


def _copy_distribution(name: str, target: Path) -> None:
    files: Sequence[importlib.metadata.PackagePath]
    files = importlib.metadata.distribution(name).files or []
    for file in files:
        if file.parts[0] == "..":
            continue  # commands in bin
        copy = target / file
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(file.locate(), copy)


def _remove(directory: Path) -> None:
    """Remove a directory, also what its owner made unreadable; never a mount."""
    assert not _mounts_below(directory), f"still mounted below {directory}"
    shutil.rmtree(directory)


def _mounts_below(directory: Path) -> list[str]:
    lines = Path("/proc/self/mountinfo").read_text("utf-8", "replace").splitlines()
    return [line for line in lines if line.split()[4].startswith(f"{directory}/")]
