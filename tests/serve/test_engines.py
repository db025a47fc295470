"""Every engine, over real mounts of a view in memory."""

import errno
import mmap
import os
import random
import stat
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.serve.memory_view import DEEPEST_PATH, MTIME_NS
from tests.serve.mounter import NOBODY, Mounter
from tests.support.waiting import wait_until

pytestmark = pytest.mark.fuse


def test_contents_are_those_of_the_source(mounter: Mounter) -> None:
    content = random.Random(1).randbytes(5_000_001)
    (mounter.source / "big.bin").write_bytes(content)
    (mounter.source / "empty").touch()

    mounter.mount()

    assert (mounter.mountpoint / "big.bin").read_bytes() == content
    assert (mounter.mountpoint / "empty").read_bytes() == b""
    assert (mounter.mountpoint / "small.txt").read_bytes() == b"hello\n"
    assert (mounter.mountpoint / "sub" / "inner.txt").read_bytes() == b"inner\n"


def test_random_reads_agree_with_the_source(mounter: Mounter) -> None:
    chance = random.Random(2)
    content = chance.randbytes(3_000_000)
    (mounter.source / "big.bin").write_bytes(content)
    mounter.mount()

    with (mounter.mountpoint / "big.bin").open("rb", buffering=0) as file:
        for _ in range(200):
            offset = chance.randrange(3_100_000)
            length = chance.choice([0, 1, 4096, 16_384, 65_537, 1_000_000])
            piece = os.pread(file.fileno(), length, offset)

            assert piece == content[offset : offset + length]


@pytest.mark.parametrize("flags", [mmap.MAP_SHARED, mmap.MAP_PRIVATE])
def test_files_can_be_mapped(mounter: Mounter, flags: int) -> None:
    content = random.Random(3).randbytes(1_000_001)
    (mounter.source / "big.bin").write_bytes(content)
    mounter.mount()

    with (
        (mounter.mountpoint / "big.bin").open("rb") as file,
        mmap.mmap(file.fileno(), 0, flags, mmap.PROT_READ) as mapping,
    ):
        assert mapping[:] == content


def test_attributes(mounter: Mounter) -> None:
    (mounter.source / "file").write_bytes(b"x" * 1025)
    (mounter.source / "sub" / "a").mkdir()
    (mounter.source / "sub" / "b").mkdir()
    mounter.mount()

    file = (mounter.mountpoint / "file").stat()
    directory = (mounter.mountpoint / "sub").stat()

    assert stat.filemode(file.st_mode) == "-r--r--r--"
    assert stat.filemode(directory.st_mode) == "dr-xr-xr-x"
    assert (file.st_size, file.st_blocks, file.st_blksize) == (1025, 3, 65536)
    assert (file.st_nlink, directory.st_nlink) == (1, 4)
    assert (file.st_uid, file.st_gid) == (os.getuid(), os.getgid())
    assert {file.st_atime_ns, file.st_mtime_ns, file.st_ctime_ns} == {MTIME_NS}
    assert mounter.mountpoint.stat().st_ino == 1


def test_attributes_by_descriptor_are_those_of_the_open_file(mounter: Mounter) -> None:
    mounter.mount()

    with (mounter.mountpoint / "small.txt").open("rb") as file:
        assert os.fstat(file.fileno()) == (mounter.mountpoint / "small.txt").stat()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may always allow others")
def test_owner_and_modes_can_be_chosen(mounter: Mounter) -> None:
    mounter.mount("-o", "uid=12,gid=34,umask=0227,allow_other")

    status = (mounter.mountpoint / "small.txt").stat()

    assert (status.st_uid, status.st_gid) == (12, 34)
    assert stat.filemode(status.st_mode) == "-r--r-----"


def test_size_of_the_whole(mounter: Mounter) -> None:
    (mounter.source / "big.bin").write_bytes(b"x" * 200_000)
    mounter.mount()

    whole = os.statvfs(mounter.mountpoint)

    assert (whole.f_bsize, whole.f_frsize, whole.f_namemax) == (65536, 65536, 255)
    assert (whole.f_blocks, whole.f_files) == (4, 3)
    assert (whole.f_bfree, whole.f_bavail, whole.f_ffree) == (0, 0, 0)
    assert whole.f_flag & (os.ST_RDONLY | os.ST_NOSUID | os.ST_NODEV) == 7


def test_large_directory_is_listed_whole(mounter: Mounter) -> None:
    names = {f"{number:04}-{'n' * 60}" for number in range(5000)}
    many = mounter.source / "many"
    many.mkdir()
    for name in names:
        (many / name).touch()
    mounter.mount()

    with os.scandir(mounter.mountpoint / "many") as entries:
        listed = {entry.name: entry for entry in entries}

    assert listed.keys() == names
    some = [listed[name] for name in sorted(names)[::500]]
    assert all(entry.inode() == Path(entry).stat().st_ino for entry in some)
    assert all(entry.is_file(follow_symlinks=False) for entry in some)


def test_listing_has_the_two_dots(mounter: Mounter) -> None:
    mounter.mount()

    listing = subprocess.run(
        ["ls", "-fi", mounter.mountpoint / "sub"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    entries = {
        name: int(number) for number, name in map(str.split, listing.split("\n")[:-1])
    }

    assert entries.keys() == {".", "..", "inner.txt"}
    assert entries["."] == (mounter.mountpoint / "sub").stat().st_ino
    assert entries[".."] == 1


@pytest.mark.parametrize(
    "name",
    [
        "ö" * 127 + "x",  # 255 bytes
        "n" * 255,
        "o\N{COMBINING DIAERESIS}",  # not normalised
        "\N{LATIN SMALL LETTER O WITH DIAERESIS}",
        "a\nb\tc\x01",
        "comma, back\\slash 'quote' \"quote\"",
        " leading",
        "-o",
        "日本語.bin",
    ],
)
def test_any_name_works(mounter: Mounter, name: str) -> None:
    (mounter.source / name).write_bytes(name.encode())
    mounter.mount()

    assert name in os.listdir(mounter.mountpoint)
    assert (mounter.mountpoint / name).read_bytes() == name.encode()


def test_deepest_and_longest_path_works(mounter: Mounter) -> None:
    # Longer than what one system call takes with the mountpoint in front.
    (mounter.source / "deep").mkdir()
    mounter.mount()

    descriptor = os.open(mounter.mountpoint, os.O_RDONLY | os.O_DIRECTORY)
    for part in DEEPEST_PATH:
        inner = os.open(part, os.O_RDONLY, dir_fd=descriptor)
        os.close(descriptor)
        descriptor = inner
    content = os.read(descriptor, 100)
    os.close(descriptor)

    assert content == b"deep"


_CHANGES: dict[str, Callable[[Path], object]] = {
    "open for writing": lambda path: (path / "small.txt").open("wb"),
    "open for both": lambda path: (path / "small.txt").open("r+b"),
    "create": lambda path: (path / "new").open("xb"),
    "mkdir": lambda path: (path / "new").mkdir(),
    "unlink": lambda path: (path / "small.txt").unlink(),
    "rmdir": lambda path: (path / "sub").rmdir(),
    "rename": lambda path: (path / "small.txt").rename(path / "other"),
    "chmod": lambda path: (path / "small.txt").chmod(0o600),
    "chown": lambda path: os.chown(path / "small.txt", 1, 1),
    "truncate": lambda path: os.truncate(path / "small.txt", 0),
    "utime": lambda path: os.utime(path / "small.txt"),
    "symlink": lambda path: (path / "link").symlink_to("small.txt"),
    "link": lambda path: (path / "link").hardlink_to(path / "small.txt"),
    "setxattr": lambda path: os.setxattr(path / "small.txt", "user.x", b""),
}


@pytest.mark.parametrize("change", _CHANGES.values(), ids=_CHANGES.keys())
def test_nothing_can_be_written(
    mounter: Mounter, change: Callable[[Path], object]
) -> None:
    mounter.mount()

    with pytest.raises(OSError, match="Read-only file system"):
        change(mounter.mountpoint)


def test_directory_cannot_be_read_as_a_file(mounter: Mounter) -> None:
    mounter.mount()
    descriptor = os.open(mounter.mountpoint / "sub", os.O_RDONLY)

    with pytest.raises(IsADirectoryError):
        os.read(descriptor, 1)

    os.close(descriptor)


def test_missing_name_and_file_as_directory(mounter: Mounter) -> None:
    mounter.mount()

    with pytest.raises(FileNotFoundError):
        (mounter.mountpoint / "none").stat()
    with pytest.raises(NotADirectoryError):
        (mounter.mountpoint / "small.txt" / "x").stat()
    assert mounter.status().failed_reads == 0


@pytest.mark.parametrize(
    ("name", "code"), [("damaged", errno.EIO), ("superseded", errno.ESTALE)]
)
def test_failed_reads_are_told_and_counted(
    mounter: Mounter, name: str, code: int
) -> None:
    (mounter.source / name).write_bytes(b"x")
    mounter.mount()

    for _ in range(20):
        with pytest.raises(OSError, match=os.strerror(code)):
            (mounter.mountpoint / name).read_bytes()

    failed = mounter.status().failed_reads
    assert failed is not None
    assert failed >= 20
    lines = [line for line in mounter.log.read_text().splitlines() if name in line]
    assert len(lines) == 1


def test_locked_directory_opens_as_soon_as_it_can_be_unlocked(mounter: Mounter) -> None:
    (mounter.source / "locked").mkdir()
    (mounter.source / "locked" / "file").write_bytes(b"unlocked")
    mounter.mount()
    inside = mounter.mountpoint / "locked" / "file"

    assert (mounter.mountpoint / "locked").stat().st_nlink == 2
    with pytest.raises(PermissionError):
        inside.stat()
    with pytest.raises(PermissionError):
        next((mounter.mountpoint / "locked").iterdir())
    mounter.gate.touch()

    assert inside.read_bytes() == b"unlocked"


def test_slow_unlock_holds_up_no_other(mounter: Mounter) -> None:
    (mounter.source / "slow").mkdir()
    (mounter.source / "slow" / "file").write_bytes(b"at last")
    mounter.mount()
    contents: list[bytes] = []
    inside = mounter.mountpoint / "slow" / "file"
    readers = [
        threading.Thread(target=lambda: contents.append(inside.read_bytes()))
        for _ in range(3)
    ]
    for reader in readers:
        reader.start()

    assert (mounter.mountpoint / "small.txt").read_bytes() == b"hello\n"
    assert mounter.status().state == "serving"
    assert contents == []
    mounter.gate.touch()
    for reader in readers:
        reader.join(30)
    assert contents == [b"at last"] * 3


def test_second_open_is_answered_by_the_page_cache(mounter: Mounter) -> None:
    content = random.Random(4).randbytes(400_000)
    (mounter.source / "big.bin").write_bytes(content)
    mounter.mount()
    (mounter.mountpoint / "big.bin").read_bytes()
    reads = mounter.status().models[0].reason

    assert (mounter.mountpoint / "big.bin").read_bytes() == content
    assert mounter.status().models[0].reason == reads
    assert reads != "count(0)"


def test_many_readers_at_once(mounter: Mounter) -> None:
    content = random.Random(5).randbytes(2_000_000)
    for number in range(8):
        (mounter.source / f"{number}.bin").write_bytes(content)
    mounter.mount()
    good: list[bool] = []

    def read(number: int) -> None:
        path = mounter.mountpoint / f"{number}.bin"
        good.append(path.read_bytes() == content)

    readers = [threading.Thread(target=read, args=(n % 8,)) for n in range(16)]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join(60)

    assert good == [True] * 16


def test_source_is_shown_whatever_its_name(mounter: Mounter) -> None:
    odd = mounter.source.rename(mounter.source.parent / "a,b\\c d,ro=x\n#")
    mounter.source = odd

    mounter.mount()

    assert mounter.status().cipherdir == f"{odd}"


def test_mountpoint_may_have_any_name(mounter: Mounter) -> None:
    mounter.mountpoint = mounter.mountpoint.rename(
        mounter.mountpoint.parent / "ö a,b\\c\n-o"
    )

    mounter.mount()

    assert (mounter.mountpoint / "small.txt").read_bytes() == b"hello\n"


def test_programs_run_unless_told_otherwise(mounter: Mounter) -> None:
    mounter.mount("-o", "noexec")

    assert os.statvfs(mounter.mountpoint).f_flag & os.ST_NOEXEC


def test_unmounted_files_of_a_mapping_stay_readable(mounter: Mounter) -> None:
    content = random.Random(6).randbytes(300_000)
    (mounter.source / "big.bin").write_bytes(content)
    pid = mounter.mount()
    with (mounter.mountpoint / "big.bin").open("rb") as file:
        mapping = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)

    subprocess.run(["umount", "-l", mounter.mountpoint], check=True)

    assert mapping[:] == content
    mapping.close()
    wait_until(lambda: not Path(f"/proc/{pid}").exists())


def test_other_accounts_see_nothing_unless_allowed(mounter: Mounter) -> None:
    mounter.mount()

    assert _as_nobody("cat", mounter.mountpoint / "small.txt") != 0


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may always allow others")
def test_other_accounts_may_be_allowed(open_path: Path, mounter: Mounter) -> None:
    mounter.mountpoint = open_path
    mounter.mount("-o", "allow_other")

    assert _as_nobody("cat", open_path / "small.txt") == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may always allow others")
def test_other_accounts_are_held_to_the_modes(
    open_path: Path, mounter: Mounter
) -> None:
    mounter.mountpoint = open_path
    mounter.mount("-o", "allow_other,umask=077")

    assert _as_nobody("cat", open_path / "small.txt") != 0


def _as_nobody(*command: str | Path) -> int:
    if os.geteuid() != 0:
        pytest.skip("only root can become another account")
    return subprocess.run(
        command,
        user=NOBODY,
        group=NOBODY,
        extra_groups=[],
        capture_output=True,
        check=False,
    ).returncode
