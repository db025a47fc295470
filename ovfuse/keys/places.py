"""Where configuration and state live: XDG directories, and the system's."""

import os
from pathlib import Path
from typing import Final

__all__ = [
    "SYSTEM_DIRECTORY",
    "cache_directory",
    "state_directory",
    "user_directory",
]

SYSTEM_DIRECTORY: Final = Path("/etc/ovfuse")
_ROOT_STATE: Final = Path("/var/lib/ovfuse")
_ROOT_CACHE: Final = Path("/var/cache/ovfuse")


def user_directory() -> Path | None:
    """Return `$XDG_CONFIG_HOME/ovfuse`, or None where there is no home."""
    return _below_home(os.environ.get("XDG_CONFIG_HOME", ""), ".config")


def state_directory() -> Path | None:
    """Return `$XDG_STATE_HOME/ovfuse`, or None where there is no home.

    Without the variable, root's is /var/lib/ovfuse, as a service's would be.
    """
    base = os.environ.get("XDG_STATE_HOME", "")
    return _for_account(base, ".local/state", _ROOT_STATE)


def cache_directory() -> Path | None:
    """Return `$XDG_CACHE_HOME/ovfuse`, or None where there is no home.

    Without the variable, root's is /var/cache/ovfuse.
    """
    base = os.environ.get("XDG_CACHE_HOME", "")
    return _for_account(base, ".cache", _ROOT_CACHE)


def _for_account(base: str, default: str, for_root: Path) -> Path | None:
    if os.geteuid() == 0 and not base.startswith("/"):
        return for_root
    return _below_home(base, default)


def _below_home(base: str, default: str) -> Path | None:
    """A relative path in a variable is ignored, as their specification asks for."""
    if base.startswith("/"):
        return Path(base) / "ovfuse"
    home = os.environ.get("HOME", "")
    if home.startswith("/"):
        return Path(home) / default / "ovfuse"
    return None
