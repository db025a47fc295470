"""The same random calls in several directories, and what each of them answers.

A call draws its arguments from a generator of random numbers that begins the same in
every directory, and returns what a program sees, by field. Nothing here knows what a
mount is.
"""

import ctypes
import errno
import fcntl
import mmap
import os
import random
import stat
import struct
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

__all__ = ["CALLS", "Directory", "Fields", "build", "compare"]

Fields = Mapping[str, object]
"""What a call answers: `error` alone, or any others."""

SIZES: Final = (
    *(0, 1, 100, 4095, 4096, 4097, 16383, 16384, 16385, 65535, 65536, 65537),
    *(131_073, 1_048_577, 3_000_005),
)
NAMES: Final = ("two words", "new\nline", "caf\u00e9", "\U0001f9e0", "-rf", "n" * 255)
MANY: Final = 700
SLOTS: Final = 12
WHENCES: Final = (
    *(os.SEEK_SET, os.SEEK_CUR, os.SEEK_END, os.SEEK_DATA, os.SEEK_HOLE),
    9,  # means nothing
)
ATTRIBUTES: Final = ("user.x", "security.selinux", "system.posix_acl_access", "odd")

_libc = ctypes.CDLL(None, use_errno=True)


def build(directory: Path) -> Path:
    """Make a model directory of every size, with odd names and many of them."""
    chance = random.Random(1)
    for place in ("", "sub", "sub/deep/er"):
        (directory / place).mkdir(parents=True, exist_ok=True)
        for size in SIZES:
            (directory / place / f"{size}.bin").write_bytes(chance.randbytes(size))
    (directory / "zeros.bin").write_bytes(bytes(200_000))
    (directory / "empty").mkdir()
    for name in NAMES:
        (directory / "names" / name).mkdir(parents=True)
        (directory / "names" / name / name).write_text(name)
    (directory / "many").mkdir()
    for number in range(MANY):
        (directory / "many" / f"{number:03}").write_text(f"{number}")
    return directory


class Directory:
    """One of those that are compared, and what is open in it.

    Args:
        top: of a tree that `build` made, or what shows one.
    """

    def __init__(self, top: Path) -> None:
        self.top = os.open(top, os.O_RDONLY | os.O_DIRECTORY)
        self._prefix = f"/proc/self/fd/{self.top}/".encode()
        self._open: list[int] = [-1] * SLOTS
        found = sorted(os.fsencode(p.relative_to(top)) for p in top.rglob("*"))
        is_directory = [(top / os.fsdecode(p)).is_dir() for p in found]
        pairs = list(zip(found, is_directory, strict=True))
        self._files = [path for path, is_dir in pairs if not is_dir]
        self._directories = [path for path, is_dir in pairs if is_dir]

    def close(self) -> None:
        """Close whatever is open."""
        for descriptor in (*self._open, self.top):
            with suppress(OSError):
                os.close(descriptor)

    def path(self, chance: random.Random) -> bytes:
        """Draw a path, which begins at the top whatever it is."""
        return self._prefix + self.relative(chance)

    def relative(self, chance: random.Random) -> bytes:
        """Draw the path of something that is there, or nearly."""
        file, directory = chance.choice(self._files), chance.choice(self._directories)
        if chance.random() < 0.75:
            return chance.choice((file, file, directory))
        name = chance.choice((b"none", b"\xff", b"N" * 255, b"N" * 256, b"N" * 1025))
        return chance.choice(
            (
                *(b"", b".", b"none", b"none/x", name, directory + b"/" + name),
                *(file + b"/", file + b"/x", file + b"/..", directory + b"//"),
                *(directory + b"/../" + file, b"./" + file, file.upper()),
                *(file + b"\0", b"N/" * 2048, directory + b"/."),
            )
        )

    def slot(self, chance: random.Random) -> int:
        """Draw the descriptor of something that is open, more likely than not."""
        used = [number for number in self._open if number >= 0]
        return chance.choice((*used, *used, self._open[0], -1))

    def keep(self, chance: random.Random, descriptor: int) -> None:
        """Put a descriptor in the place of another."""
        place = chance.randrange(SLOTS)
        if self._open[place] >= 0:
            os.close(self._open[place])
        self._open[place] = descriptor

    def drop(self, chance: random.Random) -> None:
        """Close a descriptor."""
        self.keep(chance, -1)


# Drawing


def _offset(chance: random.Random) -> int:
    size = chance.choice(SIZES)
    near = size + chance.randrange(-2, 3)
    return chance.choice((0, near, near, chance.randrange(size + 1), 2**40, -1))


def _size(chance: random.Random) -> int:
    return chance.choice((0, 1, 100, 4096, 16_385, 65_536, 300_000, 4_000_000))


def _flags(chance: random.Random) -> int:
    """Draw flags of open(2): mostly for reading."""
    extra = (
        *(0, 0, 0, 0, os.O_DIRECTORY, os.O_NOFOLLOW, os.O_PATH, os.O_NONBLOCK),
        *(os.O_NOATIME, os.O_CREAT, os.O_CREAT | os.O_EXCL, os.O_TRUNC, os.O_APPEND),
        *(os.O_WRONLY, os.O_RDWR, os.O_RDWR | os.O_CREAT, os.O_RDWR | os.O_TMPFILE),
    )
    return chance.choice(extra) | os.O_CLOEXEC


def _answer_of_libc(status: int) -> int:
    if status < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return status


# Calls


def _open(where: Directory, chance: random.Random) -> Fields:
    descriptor = os.open(where.path(chance), _flags(chance), 0o600)
    where.keep(chance, descriptor)
    return {"flags": fcntl.fcntl(descriptor, fcntl.F_GETFL)}


def _openat(where: Directory, chance: random.Random) -> Fields:
    """Open by a descriptor of the top, or of something else that is open."""
    parent, name = where.top, where.relative(chance)
    if chance.random() < 0.4:
        parent, name = where.slot(chance), chance.choice((b".", b"1.bin", b"x", b"two"))
    if parent < 0:
        return {}
    where.keep(chance, os.open(name, _flags(chance), 0o600, dir_fd=parent))
    return {}


def _close(where: Directory, chance: random.Random) -> Fields:
    where.drop(chance)
    return {}


def _dup(where: Directory, chance: random.Random) -> Fields:
    where.keep(chance, os.dup(where.slot(chance)))
    return {}


def _read(where: Directory, chance: random.Random) -> Fields:
    return {"data": os.read(where.slot(chance), _size(chance))}


def _pread(where: Directory, chance: random.Random) -> Fields:
    return {"data": os.pread(where.slot(chance), _size(chance), _offset(chance))}


def _preadv(where: Directory, chance: random.Random) -> Fields:
    buffers = [bytearray(_size(chance)) for _ in range(chance.randrange(1, 4))]
    count = os.preadv(where.slot(chance), buffers, _offset(chance))
    return {"count": count, "data": b"".join(buffers)}


def _lseek(where: Directory, chance: random.Random) -> Fields:
    descriptor, whence = where.slot(chance), chance.choice(WHENCES)
    if descriptor >= 0 and stat.S_ISDIR(os.fstat(descriptor).st_mode):
        return {"position": os.lseek(descriptor, 0, os.SEEK_SET)}
    return {"position": os.lseek(descriptor, _offset(chance), whence)}


def _sendfile(where: Directory, chance: random.Random) -> Fields:
    with open(os.memfd_create("target"), "w+b", buffering=0) as target:  # noqa: PTH123 - no path
        source, offset = where.slot(chance), _offset(chance)
        count = os.sendfile(target.fileno(), source, offset, _size(chance))
        return {"data": os.pread(target.fileno(), count, 0)}


def _mmap(where: Directory, chance: random.Random) -> Fields:
    flags = chance.choice((mmap.MAP_SHARED, mmap.MAP_PRIVATE))
    protection = mmap.PROT_READ | chance.choice((0, 0, 0, mmap.PROT_WRITE))
    start = chance.choice((0, 0, 0, 0, 4096, 65_536, 1 << 20, 100))
    descriptor, size = where.slot(chance), chance.choice((0, 0, 0, 1, 5000, 70_000))
    with mmap.mmap(descriptor, size, flags, protection, offset=start) as mapped:
        at = chance.randrange(len(mapped))
        data = mapped[at : at + _size(chance)]
        if protection & mmap.PROT_WRITE:
            mapped[at : at + 1] = b"!"
        return {"size": len(mapped), "data": data, "after": mapped[at]}


def _forget(where: Directory, chance: random.Random) -> Fields:
    advice = chance.choice((os.POSIX_FADV_DONTNEED, os.POSIX_FADV_WILLNEED, 77))
    os.posix_fadvise(where.slot(chance), 0, 0, advice)
    return {}


def _listdir(where: Directory, chance: random.Random) -> Fields:
    place = chance.choice((where.path(chance), where.slot(chance)))
    return {"names": sorted(map(os.fsencode, os.listdir(place)))}


def _scandir(where: Directory, chance: random.Random) -> Fields:
    with os.scandir(where.path(chance)) as entries:
        found = [
            (e.name, e.is_dir(follow_symlinks=False), e.is_file()) for e in entries
        ]
    return {"entries": sorted(found)}


def _getdents(where: Directory, chance: random.Random) -> Fields:
    """List from the beginning, with a buffer of some size."""
    descriptor = where.slot(chance)
    buffer = ctypes.create_string_buffer(chance.choice((0, 8, 300, 1000, 30_000)))
    if descriptor >= 0:
        os.lseek(descriptor, 0, os.SEEK_SET)
    names: list[tuple[bytes, int]] = []
    numbers: list[tuple[bytes, int]] = []
    while True:
        size = _libc.getdents64(descriptor, buffer, len(buffer))
        data = buffer.raw[: _answer_of_libc(size)]
        if not data:
            return {"entries": sorted(names), "numbers": sorted(numbers)}
        while data:
            number, _, length, kind = struct.unpack_from("=QqHB", data)
            name = data[19:length].split(b"\0")[0]
            names.append((name, kind))
            numbers.append((name, number))
            data = data[length:]


def _attributes(found: os.stat_result) -> Fields:
    kind = "directory" if stat.S_ISDIR(found.st_mode) else "file"
    return {
        f"{kind}.{name}": getattr(found, name)
        for name in dir(found)
        if name.startswith("st_") and name not in {"st_atime", "st_mtime", "st_ctime"}
    }


def _stat(where: Directory, chance: random.Random) -> Fields:
    follow = chance.random() < 0.5
    return _attributes(os.stat(where.path(chance), follow_symlinks=follow))  # noqa: PTH116 - bytes


def _fstat(where: Directory, chance: random.Random) -> Fields:
    return _attributes(os.fstat(where.slot(chance)))


def _access(where: Directory, chance: random.Random) -> Fields:
    mode, path = chance.randrange(8), where.path(chance)
    if b"\0" not in path:
        _answer_of_libc(_libc.access(path, mode))
    return {}


def _statvfs(where: Directory, chance: random.Random) -> Fields:
    found = os.statvfs(chance.choice((where.path(chance), where.slot(chance))))
    is_read_only = bool(found.f_flag & os.ST_RDONLY)
    return {"f_namemax": found.f_namemax, "is_read_only": is_read_only}


def _readlink(where: Directory, chance: random.Random) -> Fields:
    return {"target": os.readlink(where.path(chance))}  # noqa: PTH115 - bytes


def _getxattr(where: Directory, chance: random.Random) -> Fields:
    place = chance.choice((where.path(chance), where.slot(chance)))
    return {"value": os.getxattr(place, chance.choice(ATTRIBUTES))}


def _listxattr(where: Directory, chance: random.Random) -> Fields:
    place = chance.choice((where.path(chance), where.slot(chance)))
    return {"names": os.listxattr(place)}


def _lock(where: Directory, chance: random.Random) -> Fields:
    how = chance.choice((fcntl.LOCK_SH, fcntl.LOCK_EX, fcntl.LOCK_UN)) | fcntl.LOCK_NB
    chance.choice((fcntl.flock, fcntl.lockf))(where.slot(chance), how)
    return {}


def _change(where: Directory, chance: random.Random) -> Fields:
    """Try to change something that has a path."""
    path, other = where.path(chance), where.path(chance)
    mode = chance.choice((0o600, 0o444))
    changes: tuple[Callable[[], object], ...] = (
        lambda: os.mkdir(path, mode),  # noqa: PTH102 - bytes, here and below
        lambda: os.mknod(path, stat.S_IFIFO | mode),
        lambda: os.unlink(path),  # noqa: PTH108
        lambda: os.rmdir(path),  # noqa: PTH106
        lambda: os.rename(path, other),  # noqa: PTH104
        lambda: os.link(path, other),
        lambda: os.symlink(b"x", path),  # noqa: PTH211
        lambda: os.chmod(path, mode),  # noqa: PTH101
        lambda: os.chown(path, mode, mode),
        lambda: os.truncate(path, mode),
        lambda: os.utime(path, (mode, mode)),
        lambda: os.utime(path),
        lambda: os.setxattr(path, chance.choice(ATTRIBUTES), b"1"),
        lambda: os.removexattr(path, chance.choice(ATTRIBUTES)),
    )
    chance.choice(changes)()
    return {"changed": path}


def _change_open(where: Directory, chance: random.Random) -> Fields:
    """Try to change something that is open."""
    descriptor, number = where.slot(chance), chance.choice((0, 0o444, 9999))
    changes: tuple[Callable[[], object], ...] = (
        lambda: os.write(descriptor, b"x"),
        lambda: os.pwrite(descriptor, b"x", number),
        lambda: os.ftruncate(descriptor, number),
        lambda: os.fchmod(descriptor, number),
        lambda: os.fchown(descriptor, number, number),
        lambda: os.utime(descriptor, (number, number)),
        lambda: os.posix_fallocate(descriptor, number, 1),
        lambda: os.setxattr(descriptor, "user.x", b"1"),
    )
    chance.choice(changes)()
    return {"changed": descriptor}


def _sync(where: Directory, chance: random.Random) -> Fields:
    chance.choice((os.fsync, os.fdatasync))(where.slot(chance))
    return {}


CALLS: Final[Mapping[str, Callable[[Directory, random.Random], Fields]]] = {
    call.__name__.removeprefix("_"): call
    for call in (
        *(_open, _openat, _close, _dup, _read, _pread, _preadv, _lseek, _sendfile),
        *(_mmap, _forget, _listdir, _scandir, _getdents, _stat, _fstat, _access),
        *(_statvfs, _readlink, _getxattr, _listxattr, _lock, _change, _change_open),
        _sync,
    )
}
OFTEN: Final = ("open", "open", "open", "read", "pread", "pread", "mmap", "stat")


def compare(
    directories: Mapping[str, Directory], seed: int, calls: int
) -> Iterator[tuple[str, Mapping[str, Fields]]]:
    """Make random calls everywhere; yield each with the answers by directory."""
    chance = random.Random(seed)
    for _ in range(calls):
        name, drawn = chance.choice((*CALLS, *OFTEN)), chance.getrandbits(64)
        yield (
            name,
            {
                which: _answer(name, directory, random.Random(drawn))
                for which, directory in directories.items()
            },
        )


def _answer(name: str, directory: Directory, chance: random.Random) -> Fields:
    try:
        return CALLS[name](directory, chance)
    except OSError as error:
        return {"error": errno.errorcode[error.errno or 0]}
    except (ValueError, OverflowError) as error:  # Python's own, before any call
        return {"error": type(error).__name__}
