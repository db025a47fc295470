"""The kernel's list of mounts, as far as it matters here.

Used by the serving side, which makes and ends mounts, and by the loader, which reads
from them. Stateless: each call reads mountinfo anew; any thread.
"""

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

__all__ = ["FILESYSTEM_TYPE", "Mount", "list_mounts"]

FILESYSTEM_TYPE: Final = "fuse.ovfuse"

_MOUNTINFO: Final = Path("/proc/self/mountinfo")
_OCTAL: Final = re.compile(rb"\\([0-7]{3})")


@dataclass(frozen=True, slots=True, kw_only=True)
class Mount:
    """One line of mountinfo.

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


def list_mounts(source: Path | None = None) -> list[Mount]:
    """Return all mounts that this process can see, in the order of mounting.

    Args:
        source: another process's list, of what that sees; None: the own.
    """
    return [_parse(line) for line in (source or _MOUNTINFO).read_bytes().splitlines()]


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
