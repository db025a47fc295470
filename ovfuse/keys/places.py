"""Where configuration lives: XDG directories for people, /etc for the system."""

import os
from pathlib import Path
from typing import Final

__all__ = ["SYSTEM_DIRECTORY", "user_directory"]

SYSTEM_DIRECTORY: Final = Path("/etc/ovfuse")


def user_directory() -> Path | None:
    """Return `$XDG_CONFIG_HOME/ovfuse`, or None where there is no home.

    A relative `$XDG_CONFIG_HOME` is ignored, as its specification asks for.
    """
    base = os.environ.get("XDG_CONFIG_HOME", "")
    if base.startswith("/"):
        return Path(base) / "ovfuse"
    home = os.environ.get("HOME", "")
    if home.startswith("/"):
        return Path(home) / ".config" / "ovfuse"
    return None
