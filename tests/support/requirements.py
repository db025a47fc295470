"""What a test's marker asks of the machine: skipped where it is missing.

A test marked `fuse`, `openvino`, `systemd` or `tools` is skipped with the reason where
that component is missing, and fails instead where OVFUSE_REQUIRE names it
(scripts/test does), so that a machine that should have it cannot skip silently.
"""

import ctypes
import importlib.util
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

__all__ = ["COMPONENTS", "missing", "required"]

_FUSE_DEVICE = Path("/dev/fuse")
_LIBFUSE = "libfuse3.so.3"


def _missing_fuse() -> str:
    try:
        os.close(os.open(_FUSE_DEVICE, os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        return f"{_FUSE_DEVICE}: {error.strerror}"
    try:
        ctypes.CDLL(_LIBFUSE)
    except OSError:
        return f"{_LIBFUSE} cannot be loaded"
    return _missing_command("fusermount3")


def _missing_openvino() -> str:
    found = importlib.util.find_spec("openvino")
    return "" if found else "the package openvino is not installed"


def _missing_systemd() -> str:
    return _missing_command("systemd-analyze") or _missing_command("systemd-creds")


def _missing_tools() -> str:
    names = ("age", "age-keygen", "keyctl", "openssl", "ssh-keygen", "strace", "swtpm")
    return next(filter(None, map(_missing_command, names)), "")


def _missing_command(name: str) -> str:
    return "" if shutil.which(name) else f"{name} is not on PATH"


COMPONENTS: Mapping[str, Callable[[], str]] = {
    "fuse": _missing_fuse,
    "openvino": _missing_openvino,
    "systemd": _missing_systemd,
    "tools": _missing_tools,
}


def missing(component: str) -> str:
    """Why the component cannot be used here, or an empty string."""
    return COMPONENTS[component]()


def required(environ: Mapping[str, str]) -> frozenset[str]:
    """The components that OVFUSE_REQUIRE names, separated by commas.

    Raises:
        ValueError: it names one that does not exist.
    """
    names = frozenset(environ.get("OVFUSE_REQUIRE", "").split(",")) - {""}
    if unknown := names - COMPONENTS.keys():
        known = ", ".join(sorted(COMPONENTS))
        message = f"OVFUSE_REQUIRE: {', '.join(sorted(unknown))}: not one of {known}"
        raise ValueError(message)
    return names
