"""What a mount needs of the machine: kernel, FUSE, limits, clock.

Used by the doctor. Each check reads the system and changes nothing. Any thread.
"""

import os
import platform
import re
import resource
import shutil
import time
from collections.abc import Iterator
from ctypes.util import find_library
from pathlib import Path
from typing import Final

from ovfuse.serve.doctor.finding import OK, PROBLEM, WARNING, Finding, has_line

__all__ = [
    "clock",
    "device",
    "helper",
    "kernel",
    "library",
    "limits",
    "readahead",
]

_OLDEST_KERNEL: Final = (5, 10)
_RELEASED: Final = 1_790_000_000  # an earlier clock is wrong: this is newer
_FILES_WANTED: Final = 4096
_READAHEAD_WANTED_KIB: Final = 128


def kernel() -> Iterator[Finding]:
    """Look at the version of the kernel."""
    release = platform.release()
    match = re.match(r"(\d+)\.(\d+)", release)
    version = (int(match[1]), int(match[2])) if match else (0, 0)
    if version < _OLDEST_KERNEL:
        yield Finding(
            topic="kernel",
            state=WARNING,
            detail=f"Linux {release} is older than 5.10",
            advice="use a newer kernel; this one is not tested",
        )
    else:
        yield Finding(topic="kernel", state=OK, detail=f"Linux {release}")


def device() -> Iterator[Finding]:
    """Look whether FUSE can be used."""
    device = Path("/dev/fuse")
    if not device.exists():
        yield Finding(
            topic="/dev/fuse",
            state=PROBLEM,
            detail="missing",
            advice="modprobe fuse; in a container, pass --device /dev/fuse to it",
        )
    elif not os.access(device, os.R_OK | os.W_OK):
        yield Finding(
            topic="/dev/fuse",
            state=PROBLEM,
            detail="this account may not open it",
            advice="chmod 666 /dev/fuse, as distributions do",
        )
    else:
        yield Finding(topic="/dev/fuse", state=OK, detail="there")


def helper() -> Iterator[Finding]:
    """Look who may mount, and for whom."""
    helper = shutil.which("fusermount3")
    if helper is None:
        yield Finding(
            topic="fusermount3",
            state=OK if os.geteuid() == 0 else PROBLEM,
            detail="missing; only root can mount",
            advice="" if os.geteuid() == 0 else "apt install fuse3",
        )
    else:
        yield Finding(topic="fusermount3", state=OK, detail=helper)
    allowed = has_line(Path("/etc/fuse.conf"), "user_allow_other")
    yield Finding(
        topic="/etc/fuse.conf",
        state=OK,
        detail=f"-o allow_other: {'everyone' if allowed else 'root only'}",
    )


def library() -> Iterator[Finding]:
    """Look for libfuse."""
    name = find_library(os.environ.get("FUSE_LIBRARY_NAME", "fuse3"))
    yield Finding(
        topic="libfuse",
        state=OK,
        detail=name or "missing; only -o engine=libfuse needs it",
    )


def limits() -> Iterator[Finding]:
    """Look at the limits of open files and of locked memory."""
    _, files = resource.getrlimit(resource.RLIMIT_NOFILE)
    few = files != resource.RLIM_INFINITY and files < _FILES_WANTED
    yield Finding(
        topic="open files",
        state=WARNING if few else OK,
        detail="unlimited" if files == resource.RLIM_INFINITY else f"at most {files}",
        advice=f"raise the hard limit (ulimit -Hn) to {_FILES_WANTED}" if few else "",
    )
    memory, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    locked = memory == resource.RLIM_INFINITY or os.geteuid() == 0
    yield Finding(
        topic="locked memory",
        state=OK if locked else WARNING,
        detail="all of the daemon" if locked else "keys only",
        advice="" if locked else "ulimit -l unlimited, or LimitMEMLOCK=infinity",
    )


def clock() -> Iterator[Finding]:
    """Look whether the clock can be right."""
    wrong = time.time() < _RELEASED
    yield Finding(
        topic="clock",
        state=PROBLEM if wrong else OK,
        detail=time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime()),
        advice="set it: the terms of models are checked against it" if wrong else "",
    )


def readahead() -> Iterator[Finding]:
    """Tell how far the kernel reads ahead."""
    writable = os.access("/sys/class/bdi", os.W_OK)
    yield Finding(
        topic="readahead",
        state=OK,
        detail="raised to 1 MiB at each mount"
        if os.geteuid() == 0 and writable
        else f"the kernel's {_READAHEAD_WANTED_KIB} KiB; only root can raise it",
    )
