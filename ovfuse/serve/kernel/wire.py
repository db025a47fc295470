"""Layouts and numbers of the FUSE protocol, as in Linux' <linux/fuse.h>, 7.45.

The names are the header's, without `fuse_` and `FUSE_`. Numbers are in the
machine's own byte order. Pure; any thread.
"""

from enum import IntEnum, IntFlag
from functools import cache
from struct import Struct
from typing import Final

MAJOR: Final = 7
MINOR: Final = 45

IN_HEADER: Final = Struct("=IIQQIIIHH")
"""len, opcode, unique, nodeid, uid, gid, pid, total_extlen, padding"""
OUT_HEADER: Final = Struct("=IiQ")
"""len, error, unique"""

INIT_IN: Final = Struct("=IIII")
"""major, minor, max_readahead, flags"""
INIT_IN_EXT: Final = Struct("=IIIII44x")
"""The same, flags2, and room; of kernels that set INIT_EXT."""
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
KEEP_CACHE: Final = 1 << 1
"""Of OPEN_OUT's flags: pages that the kernel has of the file are right."""
PASSTHROUGH: Final = 1 << 7
"""Of OPEN_OUT's flags: the kernel reads from the backing file itself."""
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
INVAL_INODE_OUT: Final = Struct("=Qqq")
"""ino, off, len; off -1: the attributes alone; len 0: to the end"""
INVAL_ENTRY_OUT: Final = Struct("=QII")
"""parent, namelen, flags; then the name and a NUL"""
STATFS_OUT: Final = Struct("=QQQQQIIII24x")
"""blocks, bfree, bavail, files, ffree, bsize, namelen, frsize, padding"""


class Opcode(IntEnum):
    """What the kernel asks for, as far as this server knows it by name."""

    LOOKUP = 1
    FORGET = 2
    GETATTR = 3
    OPEN = 14
    READ = 15
    STATFS = 17
    RELEASE = 18
    INIT = 26
    OPENDIR = 27
    READDIR = 28
    RELEASEDIR = 29
    INTERRUPT = 36
    BATCH_FORGET = 42
    READDIRPLUS = 44


WRITING: Final = frozenset({4, 6, *range(8, 14), 16, 21, 24, 35, 43, 45, 47, 51})
"""SETATTR, SYMLINK, MKNOD, MKDIR, UNLINK, RMDIR, RENAME, LINK, WRITE, SETXATTR,
REMOVEXATTR, CREATE, FALLOCATE, RENAME2, COPY_FILE_RANGE, TMPFILE."""


class Notification(IntEnum):
    """What is said to the kernel without being asked, instead of an error."""

    INVAL_INODE = 2
    INVAL_ENTRY = 3
    RESEND = 7


class InitFlag(IntFlag):
    """What both sides can do, in the two words of INIT."""

    ASYNC_READ = 1 << 0
    DO_READDIRPLUS = 1 << 13
    PARALLEL_DIROPS = 1 << 18
    MAX_PAGES = 1 << 22
    INIT_EXT = 1 << 30
    PASSTHROUGH = 1 << 37
    HAS_RESEND = 1 << 39


UNIQUE_RESEND: Final = 1 << 63
"""Of a request's number: another process was at work on it."""


@cache
def dirent(name_size: int) -> Struct:
    """Return the layout of DIRENT and a name, with its padding."""
    return Struct(f"{DIRENT.format}{(name_size + 7) & ~7}s")
