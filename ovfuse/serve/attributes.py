"""What stat(2) and statfs(2) say about a node: one answer for all engines.

Used by every engine. Pure functions of immutable values; any thread.
"""

import os
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple, Self

if TYPE_CHECKING:
    from ovfuse.serve.options import MountOptions
    from ovfuse.view.contract import Node

__all__ = [
    "BLOCK_SIZE",
    "NAME_MAX",
    "Access",
    "Attributes",
    "FilesystemAttributes",
    "attributes_of",
    "filesystem_attributes",
]

BLOCK_SIZE: Final = 64 * 1024
"""The preferred unit of reading: one block of the format."""
NAME_MAX: Final = 255
_SECTOR_SIZE: Final = 512


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """Whose files they seem to be, and what is taken off their modes."""

    uid: int
    gid: int
    umask: int

    @classmethod
    def of(cls, options: "MountOptions") -> Self:
        """Return what the options say; by default, the mounting user."""
        return cls(
            uid=os.getuid() if options.uid is None else options.uid,
            gid=os.getgid() if options.gid is None else options.gid,
            umask=options.umask,
        )


class Attributes(NamedTuple):
    """The attributes of one node; its three times are the same."""

    number: int
    mode: int
    link_count: int
    uid: int
    gid: int
    size: int
    sectors: int
    time_ns: int

    def as_stat(self) -> dict[str, int]:
        """Return them by the names of stat(2), times in nanoseconds."""
        return {
            "st_ino": self.number,
            "st_mode": self.mode,
            "st_nlink": self.link_count,
            "st_uid": self.uid,
            "st_gid": self.gid,
            "st_size": self.size,
            "st_blocks": self.sectors,
            "st_blksize": BLOCK_SIZE,
            "st_atime": self.time_ns,
            "st_mtime": self.time_ns,
            "st_ctime": self.time_ns,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class FilesystemAttributes:
    """The size of the whole, in blocks of BLOCK_SIZE; nothing is ever free."""

    blocks: int
    files: int

    def as_statvfs(self) -> dict[str, int]:
        """Return them by the names of statvfs(3)."""
        return {
            "f_bsize": BLOCK_SIZE,
            "f_frsize": BLOCK_SIZE,
            "f_blocks": self.blocks,
            "f_files": self.files,
            "f_namemax": NAME_MAX,
        }


def attributes_of(node: "Node", access: Access) -> Attributes:
    """Return the attributes of `node`, which nobody may write to."""
    kind = stat.S_IFDIR | 0o555 if node.is_directory else stat.S_IFREG | 0o444
    return Attributes(
        number=node.number,
        mode=kind & ~access.umask,
        link_count=2 + node.subdirectories if node.is_directory else 1,
        uid=access.uid,
        gid=access.gid,
        size=node.size,
        sectors=-(-node.size // _SECTOR_SIZE),
        time_ns=node.mtime_ns,
    )


def filesystem_attributes(totals: tuple[int, int]) -> FilesystemAttributes:
    """Return the attributes of a filesystem with these bytes and files."""
    plaintext_size, files = totals
    return FilesystemAttributes(blocks=-(-plaintext_size // BLOCK_SIZE), files=files)
