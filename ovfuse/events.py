"""The kinds of events that log lines are about, for whoever filters a log by them.

Used by all layers that log; defined here and only here. docs/observing.md has the same
table, and a test holds both equal. Numbers are never used for something else.
"""

from enum import Enum
from typing import Final

__all__ = ["FACTS", "Event", "about"]


class Event(Enum):
    """By its MESSAGE_ID in the journal."""

    SERVING = "43a4234801914f0695744b2601343763"
    SUCCEEDED = "da6786e41813475f8a501e493ae13cac"
    UNMOUNTED = "214a5fd28baf4f7fb27ed45a29569717"
    OPENED = "1629ea4c07cb429387b6c5dde821a813"
    DENIED = "ff992458334d413b84bee9afb5f4e6dc"
    FAILED = "7a82bb81f47f4e19aa23b0b0d12740df"
    CHANGED = "36462ffa38194890a376dc7e54fe640c"
    REFUSED = "fc3f171a1517475d98ccac5fb47ba08a"


FACTS: Final = ("model", "path", "version", "uid", "gid", "pid", "exe", "comm")
"""What else a line may say in a field of its own."""


def about(event: Event, **facts: str | int) -> dict[str, object]:
    """Return what a log line is about, as `extra` for the logger.

    Args:
        event: its kind.
        facts: by names of FACTS; they may hold anything.
    """
    return {"event": event, "facts": facts}
