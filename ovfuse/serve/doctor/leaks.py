"""Where plaintext could leave memory: swap, hibernation, core dumps of apps.

Used by the doctor. Each check reads the system and changes nothing. Any thread.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from ovfuse.quote import quoted
from ovfuse.serve.doctor.finding import OK, WARNING, Finding, has_line, lines_of

__all__ = ["core_dumps", "hibernation", "swap"]

_COREDUMP_CONF: Final = Path("/etc/systemd/coredump.conf")


def swap() -> Iterator[Finding]:
    """Look for swap that keeps what was in memory."""
    lines = lines_of(Path("/proc/swaps"))[1:]
    plain = [line.split()[0] for line in lines if not _is_encrypted(line.split()[0])]
    yield Finding(
        topic="swap",
        state=WARNING if plain else OK,
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
    return any(line.startswith("CRYPT-") for line in lines_of(uuid))


def hibernation() -> Iterator[Finding]:
    """Look whether memory may be written to disk as a whole."""
    modes = " ".join(lines_of(Path("/sys/power/state"))).split()
    resume = "".join(lines_of(Path("/sys/power/resume"))).strip()
    possible = "disk" in modes and resume not in ("", "0:0")
    yield Finding(
        topic="hibernation",
        state=WARNING if possible else OK,
        detail="possible" if possible else "not set up",
        advice="it writes all memory to disk: mask hibernate.target"
        if possible
        else "",
    )


def core_dumps() -> Iterator[Finding]:
    """Look whether a crashing app's memory is written down."""
    pattern = "".join(lines_of(Path("/proc/sys/kernel/core_pattern"))).strip()
    # A pipe gets them whatever the limit is.
    written = bool(pattern) and (pattern.startswith("|") or _may_dump())
    if "systemd-coredump" in pattern and has_line(_COREDUMP_CONF, "Storage=none"):
        written = False
    yield Finding(
        topic="core dumps",
        state=WARNING if written else OK,
        detail=f"pattern {quoted(pattern)}" if written else "off",
        advice="a crashing app's plaintext goes there (never ovfuse's own): "
        "set Storage=none in coredump.conf, or LimitCORE=0 for apps"
        if written
        else "",
    )


def _may_dump() -> bool:
    """Read whoever called us: a command of ours has set its own limit to nothing."""
    lines = lines_of(Path(f"/proc/{os.getppid()}/limits"))
    limits = [line.split() for line in lines if line.startswith("Max core file size")]
    return not limits or limits[0][4] != "0"
