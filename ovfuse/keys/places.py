"""Where configuration and state live: XDG directories, and the system's."""

import os
from pathlib import Path
from typing import Final

__all__ = ["SYSTEM_DIRECTORY", "state_directory", "user_directory"]

SYSTEM_DIRECTORY: Final = Path("/etc/ovfuse")
_ROOT_STATE: Final = Path("/var/lib/ovfuse")


def user_directory() -> Path | None:
    """Return `$XDG_CONFIG_HOME/ovfuse`, or None where there is no home."""
    return _below_home(os.environ.get("XDG_CONFIG_HOME", ""), ".config")


def state_directory() -> Path | None:
    """Return `$XDG_STATE_HOME/ovfuse`, or None where there is no home.

    Without the variable, root's is /var/lib/ovfuse, as a service's would be.
    """
    base = os.environ.get("XDG_STATE_HOME", "")
    if os.geteuid() == 0 and not base.startswith("/"):
        return _ROOT_STATE
    return _below_home(base, ".local/state")


def _below_home(base: str, default: str) -> Path | None:
    """A relative path in a variable is ignored, as their specification asks for."""
    if base.startswith("/"):
        return Path(base) / "ovfuse"
    home = os.environ.get("HOME", "")
    if home.startswith("/"):
        return Path(home) / default / "ovfuse"
    return None
