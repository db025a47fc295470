"""What systemd says, asked by its own commands; never for long.

Used by the doctor's look at the units. Stateless; any thread.
"""

import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Final

__all__ = ["instances", "last_error", "runs_here", "settings", "show"]

_SECONDS: Final = 5.0
_UNITS: Final = "ovfuse@*.service"


def runs_here() -> bool:
    """Tell whether systemd is the service manager, as sd_booted(3) does."""
    return Path("/run/systemd/system").is_dir()


def show(unit: str, names: Sequence[str]) -> dict[str, str]:
    """Return properties of a unit; `unknown` for those that systemd does not tell."""
    words = ["systemctl", "show", f"--property={','.join(names)}", "--", unit]
    found = dict.fromkeys(names, "unknown")
    for line in _lines_of(words):
        name, _, value = line.partition("=")
        if name in found and value:
            found[name] = value
    return found


def settings(unit: str, name: str) -> list[str]:
    """Return what the files of a unit say for one setting, drop-ins included.

    For those that `systemctl show` does not tell.
    """
    found: list[str] = []
    for line in _lines_of(["systemctl", "cat", "--", unit]):
        key, equals, value = line.strip().partition("=")
        if equals and key.strip() == name:
            found = [*found, value.strip()] if value.strip() else []
    return found


def instances() -> set[str]:
    """Return the instances of the unit that are enabled or were started."""
    options = ["--all", "--plain", "--no-legend", "--full", "--", _UNITS]
    found = set()
    for command in ("list-units", "list-unit-files"):
        for line in _lines_of(["systemctl", command, *options]):
            name = line.split()[0].removeprefix("ovfuse@").removesuffix(".service")
            found.add(name)
    return found - {""}


def last_error(unit: str) -> str:
    """Return the last error that a unit's own processes logged since the boot."""
    words = ["journalctl", "--quiet", "--no-pager", "--boot", "--output=cat"]
    lines = _lines_of([*words, "--lines=1", "--priority=err", f"_SYSTEMD_UNIT={unit}"])
    return lines[-1] if lines else ""


def _lines_of(words: Sequence[str]) -> list[str]:
    """Return what a command prints; nothing if it fails or takes too long."""
    try:
        done = subprocess.run(  # noqa: S603  a list, no shell
            words,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
            timeout=_SECONDS,
        )
    except (OSError, subprocess.TimeoutExpired):
        return []
    text = done.stdout.decode("utf-8", "surrogateescape")
    return [line for line in text.splitlines() if line.strip()]
