"""System calls on a mount: what is read, what is refused, what is said about it."""

import ctypes
import errno
import fcntl
import mmap
import os
import random
import stat
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.mount.conftest import Sealed
from tests.mount.trees import MANY, NAMES
from tests.support.mounting import Home, Mount, mounted, run_as

pytestmark = pytest.mark.fuse

LARGE = Path("sizes", f"{8 * 2**20 + 1}")


@pytest.fixture
def plain(library: Sealed) -> Path:
    return library.plain


@pytest.fixture
def top(library_mount: Mount) -> Path:
    return library_mount.mountpoint


def test_reads_at_any_offset(plain: Path, top: Path) -> None:
    data = (plain / LARGE).read_bytes()
    source = random.Random(1)
    fd = os.open(top / LARGE, os.O_RDONLY)
    try:
        for _ in range(300):
            offset = source.randrange(len(data) + 10)
            size = source.choice((1, 100, 16384, 65536, 300_000))
            assert os.pread(fd, size, offset) == data[offset : offset + size]
        assert os.pread(fd, 10, len(data)) == b""
        assert os.pread(fd, 10, 2**40) == b""
    finally:
        os.close(fd)


def test_reads_without_the_page_cache(plain: Path, top: Path) -> None:
    data = (plain / LARGE).read_bytes()
    buffer = mmap.mmap(-1, 1 << 20)
    fd = os.open(top / LARGE, os.O_RDONLY | os.O_DIRECT)
    try:
        for offset in range(0, len(data), len(buffer)):
            count = os.preadv(fd, [buffer], offset)
            assert buffer[:count] == data[offset : offset + len(buffer)]
    finally:
        os.close(fd)


def test_many_readers_at_once(plain: Path, top: Path) -> None:
    paths = [LARGE, *(Path("many", f"{n:04}.txt") for n in range(1, 200))]

    def check(seed: int) -> None:
        for path in random.Random(seed).sample(paths, len(paths)):
            assert (top / path).read_bytes() == (plain / path).read_bytes()

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(check, range(8)))


@pytest.mark.parametrize("flags", [mmap.MAP_SHARED, mmap.MAP_PRIVATE])
@pytest.mark.parametrize("name", ["1", "16385", "65536", LARGE.name])
def test_mapped_files_have_the_right_bytes(
    plain: Path, top: Path, name: str, flags: int
) -> None:
    data = (plain / "sizes" / name).read_bytes()
    with (
        (top / "sizes" / name).open("rb") as file,
        mmap.mmap(file.fileno(), 0, flags, mmap.PROT_READ) as mapped,
    ):
        backwards = range((len(data) - 1) // 4096 * 4096, -1, -4096)
        assert all(mapped[i : i + 4096] == data[i : i + 4096] for i in backwards)


def test_private_mapping_can_be_written_and_changes_nothing(
    plain: Path, top: Path
) -> None:
    path = Path("sizes", "65537")
    both = mmap.PROT_READ | mmap.PROT_WRITE
    with (top / path).open("rb") as file:
        with mmap.mmap(file.fileno(), 0, mmap.MAP_PRIVATE, both) as mapped:
            mapped[:4] = b"mine"
        with pytest.raises(PermissionError):
            mmap.mmap(file.fileno(), 0, mmap.MAP_SHARED, both)
    assert (top / path).read_bytes() == (plain / path).read_bytes()


def _fifo(top: Path) -> None:
    os.mkfifo(top / "new")


def _setxattr(top: Path) -> None:
    os.setxattr(top / "zeros", "user.x", b"1")


WRITES: dict[str, Callable[[Path], object]] = {
    "open w": lambda top: os.open(top / "zeros", os.O_WRONLY),
    "open rw": lambda top: os.open(top / "zeros", os.O_RDWR),
    "open a": lambda top: os.open(top / "zeros", os.O_WRONLY | os.O_APPEND),
    "open trunc": lambda top: os.open(top / "zeros", os.O_RDONLY | os.O_TRUNC),
    "create": lambda top: os.open(top / "new", os.O_RDWR | os.O_CREAT),
    "create there": lambda top: os.open(top / "zeros", os.O_RDWR | os.O_CREAT),
    "mkdir": lambda top: (top / "new").mkdir(),
    "mkfifo": _fifo,
    "unlink": lambda top: (top / "zeros").unlink(),
    "rmdir": lambda top: (top / "empty" / "in" / "empty").rmdir(),
    "rename": lambda top: (top / "zeros").rename(top / "new"),
    "rename over": lambda top: (top / "zeros").rename(top / "sizes" / "1"),
    "chmod": lambda top: (top / "zeros").chmod(0o600),
    "chmod directory": lambda top: (top / "sizes").chmod(0o700),
    "chown": lambda top: os.chown(top / "zeros", 1, 1),
    "utime": lambda top: os.utime(top / "zeros", (1, 1)),
    "touch": lambda top: (top / "zeros").touch(),
    "truncate": lambda top: os.truncate(top / "zeros", 1),
    "setxattr": _setxattr,
    "removexattr": lambda top: os.removexattr(top / "zeros", "user.x"),
    "link": lambda top: (top / "new").hardlink_to(top / "zeros"),
    "symlink": lambda top: (top / "new").symlink_to("zeros"),
}


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES.keys())
def test_every_kind_of_write_is_refused(
    top: Path, write: Callable[[Path], object]
) -> None:
    before = os.listdir(top), os.stat(top / "zeros")  # noqa: PTH116 - with atime
    with pytest.raises(OSError) as raised:  # noqa: PT011 - the errno is next
        write(top)

    assert raised.value.errno == errno.EROFS
    assert (os.listdir(top), os.stat(top / "zeros")) == before  # noqa: PTH116


def test_writes_of_an_ordinary_user_are_refused_likewise(
    user: Home, publisher: Home, small: Sealed, scratch: Path, engine: str
) -> None:
    options = ("-o", "allow_other")
    with mounted(publisher, small.cipherdir, scratch / "mnt", *options, engine=engine):
        for command in ("touch new", "rm model.xml", "mkdir new", "mv sub new"):
            done = run_as(user, *command.split(), cwd=scratch / "mnt")
            assert done.returncode != 0
            assert "Read-only file system" in done.stderr


def _read_directory(top: Path) -> None:
    fd = os.open(top / "sizes", os.O_RDONLY)
    try:
        os.read(fd, 1)
    finally:
        os.close(fd)


FAILURES: dict[str, tuple[int, Callable[[Path], object]]] = {
    "open missing": (
        errno.ENOENT,
        lambda top: os.open(top / "missing", os.O_RDONLY),
    ),
    "stat missing": (errno.ENOENT, lambda top: (top / "missing").stat()),
    "name of 256 bytes": (errno.ENAMETOOLONG, lambda top: (top / ("x" * 256)).stat()),
    "name of 255 bytes": (errno.ENOENT, lambda top: (top / ("x" * 255)).stat()),
    "stat below missing": (errno.ENOENT, lambda top: (top / "sizes/none/x").stat()),
    "list missing": (errno.ENOENT, lambda top: os.listdir(top / "missing")),
    "stat below file": (errno.ENOTDIR, lambda top: (top / "zeros" / "x").stat()),
    "list file": (errno.ENOTDIR, lambda top: os.listdir(top / "zeros")),
    "open file as directory": (
        errno.ENOTDIR,
        lambda top: os.open(top / "zeros", os.O_DIRECTORY),
    ),
    "read directory": (errno.EISDIR, _read_directory),
    "readlink": (errno.EINVAL, lambda top: (top / "zeros").readlink()),
    "execute": (
        errno.EACCES,
        lambda top: subprocess.run([top / "zeros"], check=False),
    ),
}


@pytest.mark.parametrize(("code", "call"), FAILURES.values(), ids=FAILURES.keys())
def test_errors_are_those_of_any_filesystem(
    top: Path, code: int, call: Callable[[Path], object]
) -> None:
    with pytest.raises(OSError) as raised:  # noqa: PT011 - the errno is next
        call(top)
    assert raised.value.errno == code


def test_failures_of_the_caller_are_not_counted(
    publisher: Home, library_mount: Mount
) -> None:
    assert library_mount.status()["failed_reads"] == 0


def test_attributes_of_files_and_directories(plain: Path, top: Path) -> None:
    file = (top / "sizes" / "16385").stat()
    assert file.st_mode == stat.S_IFREG | 0o444
    assert (file.st_uid, file.st_gid) == (os.getuid(), os.getgid())
    assert (file.st_size, file.st_blocks, file.st_nlink) == (16385, 33, 1)
    assert file.st_atime_ns == file.st_mtime_ns == file.st_ctime_ns
    directory = (top / "empty").stat()
    assert directory.st_mode == stat.S_IFDIR | 0o555
    assert directory.st_nlink == 3
    assert top.stat().st_ino == 1
    numbers = [p.stat().st_ino for p in top.rglob("*")]
    assert len(set(numbers)) == len(numbers)


def test_statvfs_is_sane(plain: Path, top: Path) -> None:
    sizes = [p.stat().st_size for p in plain.rglob("*") if p.is_file()]
    said = os.statvfs(top)

    assert said.f_blocks * said.f_frsize >= sum(sizes)
    assert (said.f_blocks - 1) * said.f_frsize < sum(sizes)
    assert (said.f_bfree, said.f_bavail, said.f_ffree, said.f_favail) == (0, 0, 0, 0)
    assert said.f_files == len(sizes)
    assert said.f_namemax == 255
    wanted = os.ST_RDONLY | os.ST_NOSUID | os.ST_NODEV
    assert said.f_flag & wanted == wanted


@contextmanager
def suppress_unsupported() -> Iterator[None]:
    """A filesystem without extended attributes may say so."""
    try:
        yield
    except OSError as error:
        if error.errno != errno.ENOTSUP:
            raise


@pytest.mark.parametrize("name", ["zeros", "sizes", ""])
def test_there_are_no_extended_attributes(top: Path, name: str) -> None:
    for attribute in ("user.x", "security.capability", "system.posix_acl_access"):
        with pytest.raises(OSError) as raised:  # noqa: PT011 - the errno is next
            os.getxattr(top / name, attribute)
        assert raised.value.errno in (errno.ENODATA, errno.ENOTSUP)
    with suppress_unsupported():
        assert os.listxattr(top / name) == []


def test_files_have_no_holes(top: Path) -> None:
    fd = os.open(top / "zeros", os.O_RDONLY)
    try:
        assert os.lseek(fd, 0, os.SEEK_DATA) == 0
        assert os.lseek(fd, 1000, os.SEEK_DATA) == 1000
        assert os.lseek(fd, 0, os.SEEK_HOLE) == 200_000
        for whence in (os.SEEK_DATA, os.SEEK_HOLE):
            with pytest.raises(OSError) as raised:  # noqa: PT011 - the errno is next
                os.lseek(fd, 200_000, whence)
            assert raised.value.errno == errno.ENXIO
        assert os.lseek(fd, -1, os.SEEK_END) == 199_999
    finally:
        os.close(fd)


def test_access_is_for_reading(top: Path) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    for name in ("zeros", "sizes"):
        assert os.access(top / name, os.R_OK)
        assert libc.access(os.fsencode(top / name), os.W_OK) == -1
        assert ctypes.get_errno() == errno.EROFS
    assert os.access(top / "sizes", os.X_OK)
    assert not os.access(top / "zeros", os.X_OK)


def test_directories_list_again_and_in_part(top: Path) -> None:
    fd = os.open(top / "many", os.O_RDONLY)
    try:
        first = os.listdir(fd)
        assert len(first) == MANY
        assert os.listdir(fd) == first
    finally:
        os.close(fd)
    with os.scandir(top / "many") as entries:
        assert next(entries).is_file()
        assert next(entries).inode() == (top / "many" / first[1]).stat().st_ino
    assert sorted(os.listdir(top / "names")) == sorted(NAMES)


def test_locks_and_hints_work(top: Path) -> None:
    with (top / LARGE).open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        fcntl.lockf(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_WILLNEED)
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def test_kernel_copies_files_out(plain: Path, top: Path, tmp_path: Path) -> None:
    size = (plain / LARGE).stat().st_size
    with (top / LARGE).open("rb") as source, (tmp_path / "copy").open("wb") as target:
        done = 0
        while done < size:
            done += os.sendfile(target.fileno(), source.fileno(), done, size - done)
    assert (tmp_path / "copy").read_bytes() == (plain / LARGE).read_bytes()


def test_names_that_only_look_alike_are_two_files(top: Path) -> None:
    composed, decomposed = "caf\u00e9", "cafe\u0301"
    contents = {
        (top / "names" / name / name).read_text() for name in (composed, decomposed)
    }
    assert len(contents) == 2
