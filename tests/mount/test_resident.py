"""Files that the kernel serves from memory, after they were verified whole."""

import dataclasses
import errno
import mmap
import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.mount.conftest import Sealed, flip, seal_directory
from tests.mount.locking import opened, serving
from tests.support.killing import kill_for_good
from tests.support.mounting import (
    Home,
    Mount,
    run_as,
    run_ovfuse,
    status_of,
    succeed,
)
from tests.support.sealed import pattern, write_files
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.fuse]

MiB = 1 << 20
FILES = {
    "a.bin": pattern(5 * MiB + 4321),
    "b.bin": pattern(3 * MiB),
    "sub/c.blob": pattern(2 * MiB + 1),
    "small.bin": pattern(100_000),
    "large.txt": pattern(2 * MiB),
}
WEIGHTS = ("a.bin", "b.bin", "sub/c.blob")


@pytest.fixture(scope="module")
def possible() -> None:
    if os.geteuid() != 0:
        pytest.skip("only root may have the kernel serve files from memory")
    release = tuple(int(part) for part in os.uname().release.split(".")[:2])
    if release < (6, 9):
        pytest.skip("the kernel has no passthrough: it is older than 6.9")


@pytest.fixture(scope="module")
def weights(shared: Path, publisher: Home, possible: None) -> Sealed:
    """A sealed model with large files; tests leave it alone."""
    plain = write_files(shared / "plain" / "weights", FILES)
    succeed(publisher, "encrypt", plain, shared / "weights")
    return Sealed(plain=plain, cipherdir=shared / "weights")


def resident(mount: Mount) -> tuple[int | None, int | None]:
    """Return how many files are in memory, and their bytes; None: none can be."""
    found = mount.status()
    return found["resident_files"], found["resident_bytes"]


def mapped(path: Path) -> mmap.mmap:
    """Map a file, and close it, as OpenVINO does."""
    with opened(path) as fd:
        return mmap.mmap(fd, 0, prot=mmap.PROT_READ)


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def test_weights_are_served_without_the_daemon(
    weights: Sealed, publisher: Home, mountpoint: Path
) -> None:
    with (
        serving(publisher, weights.cipherdir, mountpoint) as mount,
        opened(mountpoint / "a.bin") as fd,
        mapped(mountpoint / "b.bin") as mapping,
    ):
        assert resident(mount) == (2, len(FILES["a.bin"]) + len(FILES["b.bin"]))
        with stopped(mount.pid):
            # Not one page of it was asked for before.
            assert os.pread(fd, 6 * MiB, 0) == FILES["a.bin"]
            assert mapping[:] == FILES["b.bin"]
            assert os.pread(fd, 10, len(FILES["a.bin"]) - 3) == FILES["a.bin"][-3:]
            assert os.pread(fd, 10, 6 * MiB) == b""


def test_every_file_is_the_same_whether_resident_or_not(
    weights: Sealed, publisher: Home, scratch: Path
) -> None:
    for choice, expected in (("auto", WEIGHTS), ("always", FILES), ("never", None)):
        mountpoint = scratch / choice
        with serving(
            publisher, weights.cipherdir, mountpoint, f"resident={choice}"
        ) as mount:
            for name, data in FILES.items():
                assert (mountpoint / name).read_bytes() == data
            if expected is None:
                assert resident(mount) == (None, None)
            else:
                total = sum(len(FILES[name]) for name in expected)
                assert resident(mount) == (len(expected), total)


def test_it_is_freed_a_while_after_the_last_close(
    weights: Sealed, publisher: Home, mountpoint: Path
) -> None:
    with serving(publisher, weights.cipherdir, mountpoint) as mount:
        with opened(mountpoint / "a.bin"):
            (mountpoint / "a.bin").read_bytes()
            (mountpoint / "b.bin").read_bytes()
        assert resident(mount)[0] == 2

        wait_until(lambda: resident(mount) == (0, 0))

        assert (mountpoint / "a.bin").read_bytes() == FILES["a.bin"]
        assert resident(mount)[0] == 1


def test_what_is_mapped_stays_and_counts(
    weights: Sealed, publisher: Home, mountpoint: Path
) -> None:
    with serving(publisher, weights.cipherdir, mountpoint) as mount:
        with mapped(mountpoint / "a.bin") as mapping:
            (mountpoint / "b.bin").read_bytes()
            # Both were closed at the same time: only the mapping tells them apart.
            wait_until(lambda: resident(mount) == (1, len(FILES["a.bin"])))
            with mapped(mountpoint / "a.bin") as again:
                assert again[:] == mapping[:] == FILES["a.bin"]
            assert resident(mount) == (1, len(FILES["a.bin"]))
        wait_until(lambda: resident(mount) == (0, 0))


def test_a_mapping_outlives_the_daemon(
    weights: Sealed, publisher: Home, mountpoint: Path
) -> None:
    with serving(publisher, weights.cipherdir, mountpoint) as mount:
        mapping = mapped(mountpoint / "a.bin")
        kill_for_good(mount.pid)
        wait_until(lambda: not Path(f"/proc/{mount.pid}").exists())
        succeed(publisher, "unmount", "--lazy", mountpoint)  # it is mapped yet
        mount.ended = True

    assert mapping[:] == FILES["a.bin"]
    mapping.close()


def test_successor_goes_on_with_files_in_memory(
    weights: Sealed, publisher: Home, mountpoint: Path
) -> None:
    """Those that are open, and those that wait for their end."""
    with (
        serving(publisher, weights.cipherdir, mountpoint) as mount,
        opened(mountpoint / "a.bin") as fd,
    ):
        (mountpoint / "b.bin").read_bytes()
        before = resident(mount)
        assert before[0] == 2
        os.kill(mount.pid, signal.SIGKILL)
        wait_until(lambda: status_of(publisher, mountpoint, "serving"))

        assert os.pread(fd, 6 * MiB, 0) == FILES["a.bin"]
        assert (mountpoint / "a.bin").read_bytes() == FILES["a.bin"]
        assert resident(mount) in {before, (1, len(FILES["a.bin"]))}
        wait_until(lambda: resident(mount) == (1, len(FILES["a.bin"])))


def test_out_of_budget_is_on_demand(
    weights: Sealed, publisher: Home, mountpoint: Path
) -> None:
    budget = len(FILES["a.bin"])
    with (
        serving(
            publisher, weights.cipherdir, mountpoint, f"resident_max={budget}"
        ) as mount,
        opened(mountpoint / "a.bin"),
        opened(mountpoint / "b.bin") as on_demand,
    ):
        assert resident(mount) == (1, budget)
        assert os.pread(on_demand, 3 * MiB, 0) == FILES["b.bin"]
        # The kernel takes a file in one way only while it is open.
        assert (mountpoint / "b.bin").read_bytes() == FILES["b.bin"]
        with mapped(mountpoint / "b.bin") as mapping:
            assert mapping[:] == FILES["b.bin"]
        assert resident(mount) == (1, budget)


@pytest.mark.usefixtures("possible")
def test_descriptors_are_left_for_the_rest(
    publisher: Home, mountpoint: Path, scratch: Path
) -> None:
    files = {f"{number:03}.txt": pattern(number + 1) for number in range(300)}
    plain = write_files(scratch / "plain", files)
    succeed(publisher, "encrypt", plain, scratch / "sealed")
    program = ("prlimit", "--nofile=200:200", *publisher.program)
    home = dataclasses.replace(publisher, program=program)
    with serving(home, scratch / "sealed", mountpoint, "resident=always") as mount:
        for name, data in files.items():
            assert (mountpoint / name).read_bytes() == data
        in_memory, _ = resident(mount)
        assert in_memory is not None
        assert 0 < in_memory <= 200 // 4


def test_each_account_has_its_share(
    weights: Sealed, publisher: Home, mountpoint: Path
) -> None:
    share = len(FILES["a.bin"])
    options = (f"resident_user_max={share}", "allow_other")
    with (
        serving(publisher, weights.cipherdir, mountpoint, *options) as mount,
        opened(mountpoint / "a.bin"),
        opened(mountpoint / "b.bin"),
    ):
        assert resident(mount) == (1, share)
        subprocess.run(
            ["cat", mountpoint / "sub/c.blob"],
            user=4711,
            check=True,
            stdout=subprocess.DEVNULL,
        )
        assert resident(mount) == (2, share + len(FILES["sub/c.blob"]))


def test_many_opens_at_once_fill_it_once(
    weights: Sealed, publisher: Home, mountpoint: Path
) -> None:
    read: list[bytes] = []
    with serving(publisher, weights.cipherdir, mountpoint) as mount:
        threads = [
            threading.Thread(
                target=lambda: read.append((mountpoint / "a.bin").read_bytes())
            )
            for _ in range(16)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert resident(mount) == (1, len(FILES["a.bin"]))

    assert read == [FILES["a.bin"]] * 16


def test_damaged_file_is_not_opened_and_others_are(
    weights: Sealed, publisher: Home, mountpoint: Path, scratch: Path
) -> None:
    cipherdir = weights.copy(scratch / "copy")
    objects = sorted(
        (seal_directory(cipherdir) / "objects").iterdir(),
        key=lambda path: path.stat().st_size,
    )
    flip(objects[-1], 3 * MiB)  # of a.bin, which is the largest
    with serving(publisher, cipherdir, mountpoint) as mount:
        for _ in range(2):
            with pytest.raises(OSError, match="error") as caught:
                os.open(mountpoint / "a.bin", os.O_RDONLY)
            assert caught.value.errno == errno.EIO
        assert resident(mount) == (0, 0)
        assert (mountpoint / "b.bin").read_bytes() == FILES["b.bin"]


@pytest.mark.usefixtures("possible")
def test_replaced_sealing_is_read_on(
    publisher: Home, mountpoint: Path, scratch: Path
) -> None:
    plain = write_files(scratch / "plain", {"a.bin": FILES["a.bin"]})
    succeed(publisher, "encrypt", plain, scratch / "sealed")
    newer = FILES["a.bin"][::-1]
    with (
        serving(publisher, scratch / "sealed", mountpoint) as mount,
        opened(mountpoint / "a.bin") as before,
    ):
        write_files(plain, {"a.bin": newer})
        for _ in range(2):  # the first one is kept for a version
            succeed(publisher, "encrypt", plain, scratch / "sealed")
        wait_until(lambda: (mountpoint / "a.bin").read_bytes() == newer)
        assert resident(mount) == (2, 2 * len(newer))
        assert os.pread(before, 6 * MiB, 0) == FILES["a.bin"]


def test_nothing_of_it_can_be_found(
    weights: Sealed, publisher: Home, mountpoint: Path
) -> None:
    with (
        serving(publisher, weights.cipherdir, mountpoint) as mount,
        opened(mountpoint / "a.bin"),
    ):
        assert resident(mount)[0] == 1
        for pid in ("self", mount.pid):
            mounts = Path(f"/proc/{pid}/mountinfo").read_text().splitlines()
            assert [line for line in mounts if "noswap" in line] == []
        links = Path(f"/proc/{mount.pid}/fd").iterdir()
        names = [os.fspath(link.readlink()) for link in links]
        in_memory = [name for name in names if name.startswith("/#")]
        assert len(in_memory) == 1
        assert in_memory[0].endswith(" (deleted)")
        maps = Path(f"/proc/{mount.pid}/maps").read_text()
        assert "/#" not in maps  # it is not mapped any more


@pytest.mark.parametrize("choice", ["auto", "always"])
def test_ordinary_user_is_told_if_he_asks(
    user: Home, scratch: Path, choice: str
) -> None:
    write_files(scratch / "plain", {"a.bin": FILES["a.bin"]})
    succeed(user, "keygen")
    succeed(user, "encrypt", scratch / "plain", user.directory / "sealed")
    mountpoint = user.make_directory(scratch / "mnt")
    options = ("-o", f"engine=kernel,resident={choice}")
    try:
        done = run_ovfuse(
            user, "mount", *options, user.directory / "sealed", mountpoint
        )
        assert done.returncode == 0, done.stderr
        warning = "files are not kept in memory: Operation not permitted"
        assert (warning in done.stderr) is (choice == "always")
        assert run_as(user, "cat", mountpoint / "a.bin").returncode == 0
    finally:
        succeed(user, "unmount", mountpoint)
