"""A mount while its model is sealed again, damaged or taken away; and afterwards."""

import errno
import os
import shutil
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from ovfuse.errors import CipherdirError, TermsError
from tests.mount.conftest import Sealed, flip, seal_directory
from tests.mount.trees import build_small
from tests.support.mounting import (
    STAYING_ENGINES,
    Home,
    mounted,
    refused_mount,
    succeed,
)
from tests.support.waiting import wait_until

pytestmark = pytest.mark.fuse

WAITING = "another sealing is on disk; mount again to see it"


def numbers_and_times(top: Path) -> dict[str, tuple[int, int]]:
    """Return inode number and mtime of everything below, and of the top."""
    paths = [top, *top.rglob("*")]
    stats = [(path.relative_to(top), path.stat()) for path in paths]
    return {f"{path}": (found.st_ino, found.st_mtime_ns) for path, found in stats}


def test_numbers_and_times_are_stable_until_it_is_sealed_again(
    publisher: Home, small: Sealed, scratch: Path, engine: str
) -> None:
    cipherdir = small.copy(scratch / "sealed")
    seen = []
    for place in ("one", "two"):
        with mounted(publisher, cipherdir, scratch / place, engine=engine):
            seen.append(numbers_and_times(scratch / place))
    succeed(publisher, "encrypt", small.plain, cipherdir)
    with mounted(publisher, cipherdir, scratch / "one", engine=engine) as mount:
        renewed = numbers_and_times(scratch / "one")
        assert mount.model()["version"] == 2

    assert seen[0] == seen[1]
    assert renewed.keys() == seen[0].keys()
    for path, (number, mtime_ns) in renewed.items():
        assert mtime_ns % 10**9 == 0
        assert mtime_ns > seen[0][path][1]
        assert number != seen[0][path][0] or path == "."


def test_mtime_is_the_sealing_time(
    publisher: Home, small: Sealed, mountpoint: Path, engine: str
) -> None:
    facts = succeed(publisher, "inspect", "--json", small.cipherdir)
    with mounted(publisher, small.cipherdir, mountpoint, engine=engine):
        times = {mtime for _, mtime in numbers_and_times(mountpoint).values()}

    (time_ns,) = times
    assert f'"sealed_at": {time_ns // 10**9}' in facts


@pytest.fixture
def copy(small: Sealed, scratch: Path) -> Path:
    """A cipherdir that the test may change."""
    return small.copy(scratch / "sealed")


@pytest.fixture
def newer(scratch: Path) -> Path:
    """Another model directory, with the same paths."""
    plain = build_small(scratch / "newer")
    (plain / "model.xml").write_text("newer")
    return plain


@pytest.fixture
def staying(engine: str) -> str:
    """An engine that shows what it showed at first."""
    if engine not in STAYING_ENGINES:
        pytest.skip("it goes on to the newest sealing")
    return engine


def test_mount_stays_on_its_sealing_and_says_that_another_waits(
    publisher: Home, copy: Path, newer: Path, mountpoint: Path, staying: str
) -> None:
    with mounted(publisher, copy, mountpoint, engine=staying) as mount:
        before = numbers_and_times(mountpoint)
        assert mount.model()["reason"] == ""

        succeed(publisher, "encrypt", newer, copy)
        assert mount.model()["reason"] == WAITING
        assert (mount.model()["version"], mount.model()["state"]) == (1, "unlocked")
        assert WAITING in succeed(publisher, "status")
        assert numbers_and_times(mountpoint) == before
        assert (mountpoint / "model.xml").stat().st_size == 3000
        assert len((mountpoint / "model.bin").read_bytes()) == 300_000
    with mounted(publisher, copy, mountpoint, engine=staying) as mount:
        assert (mountpoint / "model.xml").read_text() == "newer"
        assert mount.model()["version"] == 2


def test_open_files_outlive_their_sealing_and_others_are_stale(
    publisher: Home,
    small: Sealed,
    copy: Path,
    mountpoint: Path,
    staying: str,
) -> None:
    data = (small.plain / "model.bin").read_bytes()
    with mounted(publisher, copy, mountpoint, engine=staying) as mount:
        with (mountpoint / "model.bin").open("rb", buffering=0) as file:
            for _ in range(2):  # the second removes what is mounted
                succeed(publisher, "encrypt", small.plain, copy)
            for offset in (0, 65536, 200_000, 299_999):
                assert (
                    os.pread(file.fileno(), 5000, offset)
                    == (data[offset : offset + 5000])
                )
            with pytest.raises(OSError) as raised:  # noqa: PT011 - the errno is next
                (mountpoint / "model.xml").read_bytes()
        assert raised.value.errno == errno.ESTALE
        assert mount.status()["failed_reads"] > 0
        assert (mountpoint / "model.xml").stat().st_size == 3000


def test_cipherdir_may_be_renamed_and_removed_while_files_are_open(
    publisher: Home, small: Sealed, copy: Path, mountpoint: Path, engine: str
) -> None:
    with mounted(publisher, copy, mountpoint, engine=engine):
        copy.rename(copy.with_name("renamed"))
        data = (mountpoint / "model.xml").read_bytes()
        assert data == (small.plain / "model.xml").read_bytes()
        with (mountpoint / "model.bin").open("rb") as file:
            shutil.rmtree(copy.with_name("renamed"))
            assert file.read() == (small.plain / "model.bin").read_bytes()
    refused_mount(publisher, CipherdirError, copy, mountpoint, engine=engine)


def _objects(cipherdir: Path) -> list[Path]:
    return sorted(
        (seal_directory(cipherdir) / "objects").iterdir(),
        key=lambda path: path.stat().st_size,
    )


def _flip_middle(cipherdir: Path) -> None:
    flip(_objects(cipherdir)[-1], 150_000)


def _flip_prefix(cipherdir: Path) -> None:
    flip(_objects(cipherdir)[-1], 3)


def _truncate(cipherdir: Path) -> None:
    os.truncate(_objects(cipherdir)[-1], 150_000)


def _lengthen(cipherdir: Path) -> None:
    with _objects(cipherdir)[-1].open("ab") as file:
        file.write(b"\0")


def _remove(cipherdir: Path) -> None:
    _objects(cipherdir)[-1].unlink()


def _swap(cipherdir: Path) -> None:
    *_, first, second = _objects(cipherdir)
    first.rename(cipherdir / "x")
    second.rename(first)
    (cipherdir / "x").rename(second)


def _flip_list(cipherdir: Path) -> None:
    # The lists are in the order of the paths, and model.bin comes first.
    flip(seal_directory(cipherdir) / "blocks", 40)


@pytest.mark.parametrize(
    "damage",
    [_flip_middle, _flip_prefix, _truncate, _lengthen, _remove, _swap, _flip_list],
)
def test_damage_is_an_error_of_that_file_alone_and_counted(
    publisher: Home,
    small: Sealed,
    copy: Path,
    engine: str,
    damage: Callable[[Path], None],
) -> None:
    log = copy.with_name("log")
    options = ("-o", f"log={log}")
    mountpoint = copy.with_name("mnt")
    damage(copy)
    with mounted(publisher, copy, mountpoint, *options, engine=engine) as mount:
        assert (mountpoint / "model.bin").stat().st_size == 300_000
        with pytest.raises(OSError) as raised:  # noqa: PT011 - the errno is next
            (mountpoint / "model.bin").read_bytes()

        assert raised.value.errno == errno.EIO
        assert mount.status()["failed_reads"] > 0
        assert "'/model.bin'" in log.read_text()
        labels = (mountpoint / "sub" / "labels.txt").read_bytes()
        assert labels == (small.plain / "sub" / "labels.txt").read_bytes()


def test_damage_of_one_block_leaves_the_others_readable(
    publisher: Home, small: Sealed, copy: Path, mountpoint: Path, engine: str
) -> None:
    _flip_middle(copy)
    data = (small.plain / "model.bin").read_bytes()
    with mounted(publisher, copy, mountpoint, engine=engine):
        fd = os.open(mountpoint / "model.bin", os.O_RDONLY | os.O_DIRECT)
        try:
            assert os.pread(fd, 65536, 0) == data[:65536]
            assert os.pread(fd, 65536, 4 * 65536) == data[4 * 65536 :]
            with pytest.raises(OSError, match="Input/output error"):
                os.pread(fd, 65536, 2 * 65536)
        finally:
            os.close(fd)


def test_damage_while_it_is_mounted(
    publisher: Home, copy: Path, mountpoint: Path, engine: str
) -> None:
    with mounted(publisher, copy, mountpoint, engine=engine) as mount:
        with (mountpoint / "model.bin").open("rb", buffering=0) as file:
            _truncate(copy)
            with pytest.raises(OSError, match="Input/output error"):
                file.readall()
        assert mount.status()["state"] == "serving"
        assert (mountpoint / "sub" / "labels.txt").read_text() == "cat\ndog\n"


def test_terms_that_end_while_it_is_mounted(
    publisher: Home, small: Sealed, scratch: Path, engine: str
) -> None:
    cipherdir, mountpoint = scratch / "sealed", scratch / "mnt"
    end = datetime.now(UTC) + timedelta(seconds=8)
    options = ("--not-after", end.isoformat())
    succeed(publisher, "encrypt", *options, small.plain, cipherdir)
    with (
        mounted(publisher, cipherdir, mountpoint, engine=engine),
        (mountpoint / "model.bin").open("rb") as file,
    ):
        wait_until(lambda: datetime.now(UTC) > end)
        with pytest.raises(PermissionError):
            (mountpoint / "model.xml").read_bytes()
        assert file.read() == (small.plain / "model.bin").read_bytes()

    refused_mount(publisher, TermsError, cipherdir, mountpoint, engine=engine)
