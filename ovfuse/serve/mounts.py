"""The kernel's list of mounts, and which of them are ours.

Used by the checks before mounting, by unmount and by status. Stateless: each
call reads /proc/self/mountinfo anew; any thread.
"""

import errno
import os
import re
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Final

__all__ = [
    "FILESYSTEM_TYPE",
    "Mount",
    "find_mount",
    "is_stale",
    "list_mounts",
    "ovfuse_mounts",
    "resolve_mountpoint",
]

FILESYSTEM_TYPE: Final = "fuse.ovfuse"

_MOUNTINFO: Final = Path("/proc/self/mountinfo")
_OCTAL: Final = re.compile(rb"\\([0-7]{3})")


@dataclass(frozen=True, slots=True, kw_only=True)
class Mount:
    """One line of mountinfo, as far as it matters here.

    Attributes:
        mountpoint: where it is.
        filesystem_type: `fuse.ovfuse` if it is ours.
        source: for ours, the cipherdir.
        device: as st_dev has it.
        user_id: who mounted it over FUSE; None elsewhere.
    """

    mountpoint: Path
    filesystem_type: str
    source: str
    device: int
    user_id: int | None


def list_mounts() -> list[Mount]:
    """Return all mounts that this process can see, in the order of mounting."""
    return [_parse(line) for line in _MOUNTINFO.read_bytes().splitlines()]


def ovfuse_mounts() -> list[Mount]:
    """Return the mounts of ovfuse, whoever made them."""
    return [m for m in list_mounts() if m.filesystem_type == FILESYSTEM_TYPE]


def find_mount(mountpoint: Path) -> Mount | None:
    """Return the topmost mount at exactly this path, of whatever type."""
    found = [mount for mount in list_mounts() if mount.mountpoint == mountpoint]
    return found[-1] if found else None


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


def _parse(line: bytes) -> Mount:
    # ID PARENT MAJOR:MINOR ROOT MOUNTPOINT OPTIONS [TAG...] - TYPE SOURCE OPTIONS
    fields, _, rest = line.partition(b" - ")
    device, mountpoint = (fields.split(b" ")[i] for i in (2, 4))
    filesystem_type, source, options = rest.split(b" ")[:3]
    major, minor = device.split(b":")
    user_id = re.search(rb"(?:^|,)user_id=(\d+)", options)
    return Mount(
        mountpoint=Path(_text(mountpoint)),
        filesystem_type=_text(filesystem_type),
        source=_text(source),
        device=os.makedev(int(major), int(minor)),
        user_id=int(user_id[1]) if user_id else None,
    )


def _text(escaped: bytes) -> str:
    raw = _OCTAL.sub(lambda match: bytes([int(match[1], 8)]), escaped)
    return os.fsdecode(raw)
