"""Layouts and numbers of the FUSE protocol, as in Linux' <linux/fuse.h>, 7.45.

The names are the header's, without `fuse_` and `FUSE_`. Numbers are in the
machine's own byte order. Pure; any thread.
"""

from enum import IntEnum, IntFlag
from struct import Struct
from typing import Final

__all__ = [
    "ATTR_OUT",
    "BATCH_FORGET_IN",
    "DIRENT",
    "ENTRY_OUT",
    "FORGET_IN",
    "FORGET_ONE",
    "INIT_IN",
    "INIT_OUT",
    "INTERRUPT_IN",
    "IN_HEADER",
    "MAJOR",
    "MINOR",
    "OPEN_IN",
    "OPEN_OUT",
    "OUT_HEADER",
    "READ_IN",
    "RELEASE_IN",
    "ROOT_ID",
    "STATFS_OUT",
    "InitFlag",
    "Opcode",
    "OpenFlag",
    "dirent_size",
]

MAJOR: Final = 7
MINOR: Final = 45
ROOT_ID: Final = 1

IN_HEADER: Final = Struct("=IIQQIIIHH")
"""len, opcode, unique, nodeid, uid, gid, pid, total_extlen, padding"""
OUT_HEADER: Final = Struct("=IiQ")
"""len, error, unique"""

INIT_IN: Final = Struct("=IIII")
"""major, minor, max_readahead, flags; newer kernels send more"""
INIT_OUT: Final = Struct("=IIIIHHIIHHIIH22x")
"""major, minor, max_readahead, flags, max_background, congestion_threshold, max_write,
time_gran, max_pages, map_alignment, flags2, max_stack_depth, request_timeout"""

_ATTR: Final = "QQQQQQIIIIIIIIII"
"""ino, size, blocks, atime, mtime, ctime, atimensec, mtimensec, ctimensec, mode, nlink,
uid, gid, rdev, blksize, flags"""
ENTRY_OUT: Final = Struct("=QQQQII" + _ATTR)
"""nodeid, generation, entry_valid, attr_valid, and both in nanoseconds; attr"""
ATTR_OUT: Final = Struct("=QII" + _ATTR)
"""attr_valid, attr_valid_nsec, dummy, attr"""
DIRENT: Final = Struct("=QQII")
"""ino, off, namelen, type; then the name, padded to 8 bytes"""

OPEN_IN: Final = Struct("=II")
"""flags, open_flags"""
OPEN_OUT: Final = Struct("=QIi")
"""fh, open_flags, backing_id"""
READ_IN: Final = Struct("=QQIIQII")
"""fh, offset, size, read_flags, lock_owner, flags, padding; also for directories"""
RELEASE_IN: Final = Struct("=QIIQ")
"""fh, flags, release_flags, lock_owner; also for directories"""
FORGET_IN: Final = Struct("=Q")
"""nlookup"""
BATCH_FORGET_IN: Final = Struct("=II")
"""count, dummy; then as many FORGET_ONE"""
FORGET_ONE: Final = Struct("=QQ")
"""nodeid, nlookup"""
INTERRUPT_IN: Final = Struct("=Q")
"""unique, of the request that is not wanted any more"""
STATFS_OUT: Final = Struct("=QQQQQIIII24x")
"""blocks, bfree, bavail, files, ffree, bsize, namelen, frsize, padding"""


class Opcode(IntEnum):
    """What the kernel asks for, as far as this server knows it by name."""

    LOOKUP = 1
    FORGET = 2
    GETATTR = 3
    SETATTR = 4
    SYMLINK = 6
    MKNOD = 8
    MKDIR = 9
    UNLINK = 10
    RMDIR = 11
    RENAME = 12
    LINK = 13
    OPEN = 14
    READ = 15
    WRITE = 16
    STATFS = 17
    RELEASE = 18
    SETXATTR = 21
    REMOVEXATTR = 24
    INIT = 26
    OPENDIR = 27
    READDIR = 28
    RELEASEDIR = 29
    CREATE = 35
    INTERRUPT = 36
    DESTROY = 38
    BATCH_FORGET = 42
    FALLOCATE = 43
    READDIRPLUS = 44
    RENAME2 = 45
    COPY_FILE_RANGE = 47
    TMPFILE = 51


class InitFlag(IntFlag):
    """What both sides can do, in the two words of INIT."""

    ASYNC_READ = 1 << 0
    DO_READDIRPLUS = 1 << 13
    READDIRPLUS_AUTO = 1 << 14
    PARALLEL_DIROPS = 1 << 18
    MAX_PAGES = 1 << 22


class OpenFlag(IntFlag):
    """What a reply to OPEN and OPENDIR says of the kernel's cache."""

    KEEP_CACHE = 1 << 1
    CACHE_DIR = 1 << 3


def dirent_size(name: bytes) -> int:
    """Return the bytes of a directory entry with its name and padding."""
    return (DIRENT.size + len(name) + 7) & ~7
