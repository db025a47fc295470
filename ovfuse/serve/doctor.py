"""What this machine has that a mount needs, and what it has that leaks.

Used by the doctor command. Each check is one function that reads the system and
returns findings; nothing is changed. Any thread.
"""

import os
import platform
import re
import resource
import shutil
import time
from collections.abc import Callable, Iterator
from ctypes.util import find_library
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ovfuse.quote import quoted

__all__ = ["Finding", "examine"]

_OK, _WARNING, _PROBLEM = "ok", "warning", "problem"

_OLDEST_KERNEL: Final = (5, 10)
_RELEASED: Final = 1_790_000_000  # an earlier clock is wrong: this is newer
_COREDUMP_CONF: Final = Path("/etc/systemd/coredump.conf")
_FILES_WANTED: Final = 4096
_READAHEAD_WANTED_KIB: Final = 128


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One line of the report.

    Attributes:
        topic: what was looked at.
        state: `ok`, `warning` or `problem`.
        detail: what was found.
        advice: what to do about it, empty if nothing.
    """

    topic: str
    state: str
    detail: str
    advice: str = ""


def examine() -> list[Finding]:
    """Return the findings of all checks, in a fixed order."""
    return [finding for check in _CHECKS for finding in check()]


def _kernel() -> Iterator[Finding]:
    release = platform.release()
    match = re.match(r"(\d+)\.(\d+)", release)
    version = (int(match[1]), int(match[2])) if match else (0, 0)
    if version < _OLDEST_KERNEL:
        yield Finding(
            topic="kernel",
            state=_WARNING,
            detail=f"Linux {release} is older than 5.10",
            advice="use a newer kernel; this one is not tested",
        )
    else:
        yield Finding(topic="kernel", state=_OK, detail=f"Linux {release}")


def _device() -> Iterator[Finding]:
    device = Path("/dev/fuse")
    if not device.exists():
        yield Finding(
            topic="/dev/fuse",
            state=_PROBLEM,
            detail="missing",
            advice="modprobe fuse; in a container, pass --device /dev/fuse to it",
        )
    elif not os.access(device, os.R_OK | os.W_OK):
        yield Finding(
            topic="/dev/fuse",
            state=_PROBLEM,
            detail="this account may not open it",
            advice="chmod 666 /dev/fuse, as distributions do",
        )
    else:
        yield Finding(topic="/dev/fuse", state=_OK, detail="there")


def _helper() -> Iterator[Finding]:
    helper = shutil.which("fusermount3")
    if helper is None:
        yield Finding(
            topic="fusermount3",
            state=_OK if os.geteuid() == 0 else _PROBLEM,
            detail="missing; only root can mount",
            advice="" if os.geteuid() == 0 else "apt install fuse3",
        )
    else:
        yield Finding(topic="fusermount3", state=_OK, detail=helper)
    allowed = _has_line(Path("/etc/fuse.conf"), "user_allow_other")
    yield Finding(
        topic="/etc/fuse.conf",
        state=_OK,
        detail=f"-o allow_other: {'everyone' if allowed else 'root only'}",
    )


def _library() -> Iterator[Finding]:
    name = find_library(os.environ.get("FUSE_LIBRARY_NAME", "fuse3"))
    yield Finding(
        topic="libfuse",
        state=_OK,
        detail=name or "missing; only -o engine=libfuse needs it",
    )


def _limits() -> Iterator[Finding]:
    _, files = resource.getrlimit(resource.RLIMIT_NOFILE)
    few = files != resource.RLIM_INFINITY and files < _FILES_WANTED
    yield Finding(
        topic="open files",
        state=_WARNING if few else _OK,
        detail="unlimited" if files == resource.RLIM_INFINITY else f"at most {files}",
        advice=f"raise the hard limit (ulimit -Hn) to {_FILES_WANTED}" if few else "",
    )
    memory, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    locked = memory == resource.RLIM_INFINITY or os.geteuid() == 0
    yield Finding(
        topic="locked memory",
        state=_OK if locked else _WARNING,
        detail="all of the daemon" if locked else "keys only",
        advice="" if locked else "ulimit -l unlimited, or LimitMEMLOCK=infinity",
    )


def _swap() -> Iterator[Finding]:
    lines = _lines(Path("/proc/swaps"))[1:]
    plain = [line.split()[0] for line in lines if not _is_encrypted(line.split()[0])]
    yield Finding(
        topic="swap",
        state=_WARNING if plain else _OK,
        detail=f"not encrypted: {', '.join(map(quoted, plain))}" if plain else "none",
        advice="apps' copies of plaintext can reach it: turn it off, or encrypt it"
        if plain
        else "",
    )


def _is_encrypted(device: str) -> bool:
    """A device-mapper device of dm-crypt says so in its uuid; zram never persists."""
    name = Path(os.path.realpath(device)).name
    if name.startswith("zram"):
        return True
    uuid = Path(f"/sys/class/block/{name}/dm/uuid")
    return any(line.startswith("CRYPT-") for line in _lines(uuid))


def _hibernation() -> Iterator[Finding]:
    modes = " ".join(_lines(Path("/sys/power/state"))).split()
    resume = "".join(_lines(Path("/sys/power/resume"))).strip()
    possible = "disk" in modes and resume not in ("", "0:0")
    yield Finding(
        topic="hibernation",
        state=_WARNING if possible else _OK,
        detail="possible" if possible else "not set up",
        advice="it writes all memory to disk: mask hibernate.target"
        if possible
        else "",
    )


def _core_dumps() -> Iterator[Finding]:
    pattern = "".join(_lines(Path("/proc/sys/kernel/core_pattern"))).strip()
    # A pipe gets them whatever the limit is.
    written = bool(pattern) and (pattern.startswith("|") or _may_dump())
    if "systemd-coredump" in pattern and _has_line(_COREDUMP_CONF, "Storage=none"):
        written = False
    yield Finding(
        topic="core dumps",
        state=_WARNING if written else _OK,
        detail=f"pattern {quoted(pattern)}" if written else "off",
        advice="a crashing app's plaintext goes there (never ovfuse's own): "
        "set Storage=none in coredump.conf, or LimitCORE=0 for apps"
        if written
        else "",
    )


def _may_dump() -> bool:
    """Read whoever called us: a command of ours has set its own limit to nothing."""
    lines = _lines(Path(f"/proc/{os.getppid()}/limits"))
    limits = [line.split() for line in lines if line.startswith("Max core file size")]
    return not limits or limits[0][4] != "0"


def _clock() -> Iterator[Finding]:
    wrong = time.time() < _RELEASED
    yield Finding(
        topic="clock",
        state=_PROBLEM if wrong else _OK,
        detail=time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime()),
        advice="set it: the terms of models are checked against it" if wrong else "",
    )


def _readahead() -> Iterator[Finding]:
    writable = os.access("/sys/class/bdi", os.W_OK)
    yield Finding(
        topic="readahead",
        state=_OK,
        detail="raised to 1 MiB at each mount"
        if os.geteuid() == 0 and writable
        else f"the kernel's {_READAHEAD_WANTED_KIB} KiB; only root can raise it",
    )


def _has_line(path: Path, wanted: str) -> bool:
    return any(line.strip() == wanted for line in _lines(path))


def _lines(path: Path) -> list[str]:
    """Return the lines of a small system file; none if it cannot be read."""
    try:
        return path.read_text(errors="replace").splitlines()
    except OSError:
        return []


_CHECKS: Final[tuple[Callable[[], Iterator[Finding]], ...]] = (
    _kernel,
    _device,
    _helper,
    _library,
    _limits,
    _swap,
    _hibernation,
    _core_dumps,
    _clock,
    _readahead,
)
