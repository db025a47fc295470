"""Which mounts are ours, what is at a mountpoint, and who unmounts for users.

Used by the checks before mounting, by engines, by unmount and by status. Stateless;
any thread.
"""

import errno
import os
import shutil
import threading
from pathlib import Path

from ovfuse.mountinfo import FILESYSTEM_TYPE, Mount, list_mounts

__all__ = [
    "find_mount",
    "fusermount",
    "is_stale",
    "ovfuse_mounts",
    "resolve_mountpoint",
]


def ovfuse_mounts() -> list[Mount]:
    """Return the mounts of ovfuse, whoever made them."""
    return [m for m in list_mounts() if m.filesystem_type == FILESYSTEM_TYPE]


def find_mount(mountpoint: Path) -> Mount | None:
    """Return the topmost mount at exactly this path, of whatever type."""
    found = [mount for mount in list_mounts() if mount.mountpoint == mountpoint]
    return found[-1] if found else None


def fusermount() -> str:
    """Return the program that mounts and unmounts for ordinary users, there or not."""
    return shutil.which("fusermount3") or "/usr/bin/fusermount3"


def is_stale(mountpoint: Path, timeout: float = 2.0) -> bool | None:
    """Return whether nobody serves the mount there; None if it does not answer.

    Asks by statvfs, which the kernel never answers from a cache. In a thread of
    its own: a server that hangs would hang whoever asks.
    """
    answer: list[bool] = []

    def ask() -> None:
        try:
            os.statvfs(mountpoint)
        except OSError as error:
            answer.append(error.errno in (errno.ENOTCONN, errno.ECONNABORTED))
        else:
            answer.append(False)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(timeout)
    return answer[0] if answer else None


def resolve_mountpoint(path: Path) -> Path:
    """Return the absolute path of a mountpoint without touching what it shows.

    Only the parent is resolved if the rest is a mount: asking a mount whose
    daemon died or hangs would fail or hang.
    """
    if path.name not in ("", ".", ".."):
        candidate = Path(os.path.realpath(path.parent)) / path.name
        if find_mount(candidate) is not None:
            return candidate
    return Path(os.path.realpath(path))
