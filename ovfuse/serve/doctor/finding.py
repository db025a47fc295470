"""One line of the doctor's report, and how its checks read the system.

Used by all of them. Stateless; any thread.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

__all__ = ["OK", "PROBLEM", "WARNING", "Finding", "has_line", "lines_of"]

OK: Final = "ok"
WARNING: Final = "warning"
PROBLEM: Final = "problem"


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


def has_line(path: Path, wanted: str) -> bool:
    """Tell whether a small system file has this line."""
    return any(line.strip() == wanted for line in lines_of(path))


def lines_of(path: Path) -> list[str]:
    """Return the lines of a small system file; none if it cannot be read."""
    try:
        return path.read_text(errors="replace").splitlines()
    except OSError:
        return []
