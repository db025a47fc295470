"""A mount that goes on to what changes below its cipherdir."""

import ctypes
import errno
import mmap
import os
import select
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from ovfuse.serve.kernel import wire
from ovfuse.serve.kernel.operations import REQUEST_SIZE
from ovfuse.serve.kernel.wire import Opcode
from tests.mount.resealing import FILES, Resealed, content_of, version_of
from tests.mount.trees import build_small
from tests.support.mounting import (
    STAYING_ENGINES,
    Home,
    Mount,
    mounted,
    run_as,
    succeed,
)
from tests.support.users import needs_root
from tests.support.waiting import wait_until

pytestmark = pytest.mark.fuse

SIZE = FILES["model.bin"]
PIDFD_GETFD = 438
"""The number of that system call, everywhere."""


@pytest.fixture
def following(engine: str) -> str:
    """An engine that follows."""
    if engine in STAYING_ENGINES:
        pytest.skip("it stays on the sealing that it unlocked")
    return engine


@pytest.fixture
def single(publisher: Home, scratch: Path) -> Resealed:
    return Resealed(publisher, scratch / "sealed", scratch / "plain").seal()


@pytest.fixture
def mount(
    publisher: Home, single: Resealed, mountpoint: Path, following: str, scratch: Path
) -> Iterator[Mount]:
    """The single model."""
    log = ("-o", f"log={scratch / 'log'}")
    with mounted(
        publisher, single.cipherdir, mountpoint, *log, engine=following
    ) as mount:
        yield mount


@pytest.fixture
def in_tree(publisher: Home, scratch: Path) -> Resealed:
    return Resealed(publisher, scratch / "tree/org/m", scratch / "plain-m").seal()


@pytest.fixture
def tree(
    publisher: Home, in_tree: Resealed, mountpoint: Path, following: str, scratch: Path
) -> Iterator[Mount]:
    """The tree of one model."""
    log = ("-o", f"log={scratch / 'log'}")
    with mounted(
        publisher, scratch / "tree", mountpoint, *log, engine=following
    ) as mount:
        yield mount


def versions_in(directory: Path) -> set[int]:
    """Return the versions of what a directory shows, which is one but for a moment."""
    return {version_of((directory / path).read_bytes()) for path in FILES}


def shown(directory: Path) -> int:
    """Return the version of all that a directory shows; it must be one."""
    (version,) = versions_in(directory)
    return version


def wait_to_show(directory: Path, version: int) -> None:
    wait_until(lambda: versions_in(directory) == {version})


def wait_for(mount: Mount, version: int) -> None:
    """Wait until the daemon has gone on; what it tells the kernel comes after."""
    wait_until(lambda: mount.model()["version"] == version)


def open_at(directory: int, name: str) -> bytes:
    """Return a whole file by its directory's descriptor."""
    with open(os.open(name, os.O_RDONLY, dir_fd=directory), "rb") as file:  # noqa: PTH123 - a descriptor
        return file.read()


def removed(mount: Mount) -> list[str]:
    """Return what the daemon has open and nobody else can see any more."""
    links = []
    for descriptor in Path(f"/proc/{mount.pid}/fd").iterdir():
        with suppress(FileNotFoundError):
            links.append(f"{descriptor.readlink()}")
    own = ("/#", "/memfd:")  # in memory, and never had a name
    return [x for x in links if x.endswith(" (deleted)") and not x.startswith(own)]


def is_settled(mount: Mount, model: Resealed) -> bool:
    """Tell whether nothing removed is open; each change is an occasion to look."""
    (model.cipherdir / "x").write_bytes(b"")
    return not removed(mount)


# What changes


def test_single_model_is_replaced(
    mount: Mount, single: Resealed, mountpoint: Path
) -> None:
    before = (mountpoint / "model.xml").stat()
    top = mountpoint.stat()
    assert shown(mountpoint) == 1
    single.seal()
    wait_for(mount, 2)
    wait_to_show(mountpoint, 2)

    after = (mountpoint / "model.xml").stat()
    assert after.st_ino != before.st_ino
    assert int(after.st_mtime) > int(before.st_mtime)
    assert mountpoint.stat().st_mtime_ns == after.st_mtime_ns > top.st_mtime_ns
    assert mountpoint.stat().st_ino == top.st_ino == 1
    assert mount.model()["reason"] == ""


def test_single_model_gets_other_files(
    mount: Mount, single: Resealed, mountpoint: Path, scratch: Path, publisher: Home
) -> None:
    assert sorted(os.listdir(mountpoint)) == ["model.bin", "model.xml", "sub"]
    other = build_small(scratch / "other")
    (other / "model.bin").unlink()
    (other / "new.bin").write_bytes(b"new")
    assert not (mountpoint / "new.bin").exists()
    succeed(publisher, "encrypt", other, single.cipherdir)
    wait_until((mountpoint / "new.bin").exists)

    assert (mountpoint / "new.bin").read_bytes() == b"new"
    assert not (mountpoint / "model.bin").exists()
    assert sorted(os.listdir(mountpoint)) == ["model.xml", "new.bin", "sub"]
    assert sorted(os.listdir(mountpoint / "sub")) == ["empty", "labels.txt", "none"]


def test_models_of_a_tree_come_and_go(
    tree: Mount, in_tree: Resealed, mountpoint: Path, scratch: Path, publisher: Home
) -> None:
    assert shown(mountpoint / "org/m") == 1
    assert os.listdir(mountpoint) == ["org"]
    assert mountpoint.stat().st_nlink == 3
    assert not (mountpoint / "new").exists()
    new = Resealed(publisher, scratch / "tree/new/deep", scratch / "plain-new").seal()
    wait_until((mountpoint / "new/deep").is_dir)
    assert tree.model("new/deep")["state"] == "locked"
    assert shown(mountpoint / "new/deep") == 1
    wait_until(lambda: mountpoint.stat().st_nlink == 4)
    assert sorted(os.listdir(mountpoint)) == ["new", "org"]

    in_tree.seal()
    new.seal()
    wait_to_show(mountpoint / "org/m", 2)
    wait_to_show(mountpoint / "new/deep", 2)
    shutil.rmtree(scratch / "tree/new")
    wait_until(lambda: not (mountpoint / "new").exists())
    assert os.listdir(mountpoint) == ["org"]
    assert shown(mountpoint / "org/m") == 2
    shutil.rmtree(scratch / "tree/org/m")
    wait_until(lambda: os.listdir(mountpoint) == [])


def test_model_of_a_tree_is_renamed(
    tree: Mount, in_tree: Resealed, mountpoint: Path
) -> None:
    assert shown(mountpoint / "org/m") == 1
    moved = in_tree.cipherdir.parents[1] / "other/org"
    moved.mkdir(parents=True)
    in_tree.cipherdir.rename(moved / "m")
    wait_until((mountpoint / "other/org/m").is_dir)

    assert shown(mountpoint / "other/org/m") == 1
    assert not (mountpoint / "org").exists()


def test_renamed_cipherdir_is_followed(
    mount: Mount, single: Resealed, mountpoint: Path, scratch: Path
) -> None:
    prepared = single.prepare(scratch)
    single.cipherdir.rename(scratch / "renamed")
    prepared.cipherdir = scratch / "renamed"
    prepared.target = scratch / "renamed" / "seals" / prepared.sealing.name
    prepared.put_sealing()
    prepared.put_pointer()
    wait_for(mount, 2)

    wait_to_show(mountpoint, 2)


def test_link_in_a_tree_is_not_followed(
    tree: Mount, mountpoint: Path, scratch: Path, publisher: Home
) -> None:
    Resealed(publisher, scratch / "elsewhere/m", scratch / "plain-e").seal()
    (scratch / "tree/link").symlink_to(scratch / "elsewhere")
    Resealed(publisher, scratch / "tree/real", scratch / "plain-r").seal()
    wait_until((mountpoint / "real").exists)

    assert sorted(os.listdir(mountpoint)) == ["org", "real"]


# What is refused


def _shorten(directory: Path) -> None:
    largest = max((directory / "objects").iterdir(), key=lambda p: p.stat().st_size)
    os.truncate(largest, largest.stat().st_size - 1)


def _remove(directory: Path) -> None:
    next((directory / "objects").iterdir()).unlink()


def _damage(directory: Path) -> None:
    with (directory / "manifest.dsse.json").open("r+b") as file:
        file.seek(200)
        file.write(b"XX")


def _damage_lists(directory: Path) -> None:
    with (directory / "blocks").open("r+b") as file:
        file.write(b"XX")


@pytest.mark.parametrize("harm", [_shorten, _remove, _damage, _damage_lists])
def test_bad_sealing_is_not_taken_and_the_next_good_one_is(
    mount: Mount,
    single: Resealed,
    mountpoint: Path,
    scratch: Path,
    harm: Callable[[Path], None],
) -> None:
    prepared = single.prepare(scratch)
    harm(prepared.put_sealing())
    prepared.put_pointer()
    wait_until(lambda: mount.model()["reason"] != "")

    said = mount.model()["reason"]
    assert said.startswith("another sealing is on disk and is refused: ")
    assert mount.model()["version"] == shown(mountpoint) == 1
    log = (scratch / "log").read_text()
    assert "the model stays version 1: the sealing on disk is refused: " in log
    shutil.rmtree(prepared.target)
    prepared.put_sealing()
    wait_for(mount, 2)
    wait_to_show(mountpoint, 2)
    assert mount.model()["reason"] == ""
    assert "the model is version 2 now" in (scratch / "log").read_text()


def test_sealing_is_taken_when_its_last_object_has_come(
    mount: Mount, single: Resealed, mountpoint: Path, scratch: Path
) -> None:
    """As a copy in the wrong order does it: the pointer first."""
    prepared = single.prepare(scratch)
    prepared.put_pointer()
    wait_until(lambda: mount.model()["reason"] != "")
    assert shown(mountpoint) == 1
    prepared.put_sealing()
    wait_for(mount, 2)

    wait_to_show(mountpoint, 2)


def test_sealing_of_a_stranger_is_not_taken(
    mount: Mount, single: Resealed, mountpoint: Path, home: Home, publisher: Home
) -> None:
    succeed(home, "keygen")
    shutil.rmtree(single.cipherdir / "seals")
    (single.cipherdir / "model.ovfuse").unlink()
    recipient = ("-r", publisher.recipient)
    succeed(home, "encrypt", *recipient, single.plain, single.cipherdir)
    wait_until(lambda: "not trusted" in mount.model()["reason"])

    with pytest.raises(OSError) as raised:  # noqa: PT011 - the errno is next
        (mountpoint / "model.xml").read_bytes()
    assert raised.value.errno == errno.ESTALE


# What is held


def test_open_files_and_mappings_keep_their_sealing(
    mount: Mount, single: Resealed, mountpoint: Path
) -> None:
    with (mountpoint / "model.bin").open("rb", buffering=0) as file:
        mapping = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
    held = (mountpoint / "model.bin").open("rb", buffering=0)
    with held, mapping:
        for version in (2, 3, 4):
            single.seal()
            wait_for(mount, version)
        wait_to_show(mountpoint, 4)

        assert mapping[:] == content_of(1, SIZE)
        assert held.read() == content_of(1, SIZE)
        again = os.open(f"/proc/self/fd/{held.fileno()}", os.O_RDONLY)
        assert os.pread(again, SIZE, 0) == content_of(1, SIZE)
        os.close(again)


def test_descriptor_of_a_models_directory_stays_on_one_sealing(
    tree: Mount, in_tree: Resealed, mountpoint: Path
) -> None:
    flags = os.O_RDONLY | os.O_DIRECTORY
    locked = os.open(mountpoint / "org/m", flags)
    assert version_of(open_at(locked, "model.xml")) == 1
    unlocked = os.open(mountpoint / "org/m", flags)
    sub = os.open("sub", flags, dir_fd=unlocked)
    in_tree.seal()
    wait_to_show(mountpoint / "org/m", 2)
    for directory in (locked, unlocked):
        assert version_of(open_at(directory, "model.bin")) == 1
        assert sorted(os.listdir(directory)) == ["model.bin", "model.xml", "sub"]
    assert version_of(open_at(sub, "labels.txt")) == 1

    in_tree.seal()  # which removes the first
    wait_to_show(mountpoint / "org/m", 3)
    for directory, name in (
        (locked, "model.xml"),
        (unlocked, "model.bin"),
        (sub, "labels.txt"),
    ):
        with pytest.raises(OSError) as raised:  # noqa: PT011 - the errno is next
            open_at(directory, name)
        assert raised.value.errno == errno.ESTALE
        os.close(directory)


@needs_root
def test_old_sealings_leave_no_descriptor(
    mount: Mount, single: Resealed, mountpoint: Path
) -> None:
    for version in range(2, 9):
        single.seal()
        wait_to_show(mountpoint, version)
        os.listdir(mountpoint / f"@{version}")

    wait_until(lambda: is_settled(mount, single))


@needs_root
def test_version_that_was_looked_at_and_pruned_leaves_no_descriptor(
    mount: Mount, single: Resealed, mountpoint: Path, publisher: Home
) -> None:
    single.seal()
    wait_to_show(mountpoint, 2)
    assert shown(mountpoint / "@1") == 1

    succeed(publisher, "prune", single.cipherdir)

    wait_until(lambda: is_settled(mount, single))


@needs_root
def test_version_in_a_tree_that_was_looked_at_and_pruned_leaves_no_descriptor(
    tree: Mount, in_tree: Resealed, mountpoint: Path, publisher: Home
) -> None:
    in_tree.seal()
    wait_to_show(mountpoint / "org/m", 2)
    assert shown(mountpoint / "org/m@1") == 1

    succeed(publisher, "prune", in_tree.cipherdir)

    wait_until(lambda: is_settled(tree, in_tree))


@needs_root
def test_forget_that_nobody_heard_leaves_no_descriptor(
    mount: Mount, single: Resealed, mountpoint: Path
) -> None:
    """As when a daemon is killed that has just read it: the kernel says it once."""
    assert shown(mountpoint) == 1
    os.kill(mount.pid, signal.SIGSTOP)
    try:
        assert forgets_read_from(mount.pid) > 0
    finally:
        os.kill(mount.pid, signal.SIGCONT)
    for version in (2, 3):
        single.seal()
        wait_to_show(mountpoint, version)

    wait_until(lambda: is_settled(mount, single))


def forgets_read_from(daemon: int) -> int:
    """Have the kernel forget what nobody uses, and take what it says of that.

    Args:
        daemon: the process that it is for, which must be stopped.
    """
    links = Path(f"/proc/{daemon}/fd").iterdir()
    (number,) = [int(x.name) for x in links if f"{x.readlink()}" == "/dev/fuse"]
    libc = ctypes.CDLL(None, use_errno=True)
    process = os.pidfd_open(daemon)
    connection = libc.syscall(PIDFD_GETFD, process, number, 0)
    assert connection >= 0, os.strerror(ctypes.get_errno())
    count = 0
    try:
        for _ in range(5):  # what was used lately is spared at first
            Path("/proc/sys/vm/drop_caches").write_text("2")
            while select.select([connection], [], [], 0.2)[0]:
                request = os.read(connection, REQUEST_SIZE)
                opcode = wire.IN_HEADER.unpack_from(request)[1]
                assert opcode in {Opcode.FORGET, Opcode.BATCH_FORGET}
                count += 1
    finally:
        os.close(connection)
        os.close(process)
    return count


# Versions by name


def test_versions_of_a_single_model(
    mount: Mount, single: Resealed, mountpoint: Path
) -> None:
    assert shown(mountpoint / "@1") == 1
    single.seal()
    wait_to_show(mountpoint, 2)
    assert (shown(mountpoint / "@1"), shown(mountpoint / "@2")) == (1, 2)
    assert sorted(os.listdir(mountpoint)) == ["model.bin", "model.xml", "sub"]
    held = os.open(mountpoint / "@1", os.O_RDONLY)
    single.seal()
    wait_to_show(mountpoint, 3)

    assert shown(mountpoint / "@2") == 2
    with pytest.raises(OSError, match="Stale file handle"):
        open_at(held, "model.xml")
    os.close(held)
    wait_until(lambda: not (mountpoint / "@1").exists())
    for name in ("@4", "@0", "@", "@01", "model.xml@3", "sub@3", "@3/@3"):
        assert not (mountpoint / name).exists()


def test_versions_in_a_tree(tree: Mount, in_tree: Resealed, mountpoint: Path) -> None:
    assert shown(mountpoint / "org/m@1") == 1
    in_tree.seal()
    wait_to_show(mountpoint / "org/m", 2)

    assert shown(mountpoint / "org/m@1") == 1
    assert shown(mountpoint / "org/m@2") == 2
    assert shown(mountpoint / "org/m") == 2
    assert os.listdir(mountpoint / "org") == ["m"]
    assert not (mountpoint / "org@1").exists()
    assert not (mountpoint / "m@1").exists()


def test_pruned_version_is_gone(
    mount: Mount, single: Resealed, mountpoint: Path, publisher: Home
) -> None:
    single.seal()
    wait_to_show(mountpoint, 2)
    succeed(publisher, "prune", single.cipherdir)

    assert not (mountpoint / "@1").exists()
    assert shown(mountpoint / "@2") == 2


# Others


def test_ordinary_users_mount_goes_on(user: Home, following: str) -> None:
    plain = build_small(user.directory / "plain")
    cipherdir, mountpoint = user.directory / "sealed", user.directory / "mnt"
    succeed(user, "keygen")
    succeed(user, "encrypt", plain, cipherdir)
    with mounted(user, cipherdir, mountpoint, engine=following) as mount:
        text = run_as(user, "cat", mountpoint / "model.xml").stdout
        (plain / "model.xml").write_text("newer")
        assert text != "newer"
        succeed(user, "encrypt", plain, cipherdir)
        wait_until(lambda: mount.model()["version"] == 2)
        wait_until(
            lambda: run_as(user, "cat", mountpoint / "model.xml").stdout == "newer"
        )
        assert run_as(user, "cat", mountpoint / "@1/model.xml").stdout == text


def test_change_is_seen_without_inotify(
    publisher: Home, single: Resealed, mountpoint: Path, following: str, scratch: Path
) -> None:
    """As where `fs.inotify.max_user_instances` is used up; here it is the process's."""
    log = scratch / "log"
    command = (
        "import resource, sys\n"
        "from watchdog.observers.inotify_c import InotifyFD\n"
        "def refuse(): raise OSError(24, 'Too many open files')\n"
        "InotifyFD._create_inotify_fd = staticmethod(refuse)\n"
        "from ovfuse.cli import main\n"
        "sys.argv[0] = 'ovfuse'\n"
        "main()\n"
    )
    home = Home(directory=publisher.directory, program=(sys.executable, "-c", command))
    with mounted(
        home, single.cipherdir, mountpoint, "-o", f"log={log}", engine=following
    ) as mount:
        assert shown(mountpoint) == 1
        single.seal()
        wait_for(mount, 2)
        wait_to_show(mountpoint, 2)


@pytest.mark.openvino
def test_cached_model_of_openvino_is_never_stale(
    publisher: Home, following: str, scratch: Path, mountpoint: Path
) -> None:
    """Only the weights change; name, size and all of the .xml stay."""
    script = (
        "import sys, numpy, openvino as ov\n"
        "core = ov.Core()\n"
        "core.set_property({'CACHE_DIR': sys.argv[2]})\n"
        "model = core.compile_model(sys.argv[1] + '/model.xml', 'CPU')\n"
        "print(int(model(numpy.zeros((1, 4), numpy.float32))[0][0, 0]))\n"
    )
    build = (
        "import sys, numpy, openvino as ov\n"
        "from openvino import opset13 as op\n"
        "x = op.parameter([1, 4], numpy.float32)\n"
        "w = op.constant(numpy.full((1, 4), float(sys.argv[2]), numpy.float32))\n"
        "ov.save_model(ov.Model([op.add(x, w)], [x], 'm'), sys.argv[1] + '/model.xml',"
        " compress_to_fp16=False)\n"
    )
    plain, cipherdir = scratch / "ir", scratch / "sealed-ir"
    plain.mkdir()

    def python(*arguments: str) -> str:
        return subprocess.run(
            [sys.executable, "-c", *arguments],
            check=True,
            capture_output=True,
            text=True,
        ).stdout.strip()

    descriptions = set()
    for number in (1, 2, 3):
        python(build, f"{plain}", f"{number}")
        descriptions.add((plain / "model.xml").read_bytes())
        succeed(publisher, "encrypt", plain, cipherdir)
        if number == 1:
            context = mounted(publisher, cipherdir, mountpoint, engine=following)
            mount = context.__enter__()
        wait_for(mount, number)
        wait_until(
            lambda: (
                (mountpoint / "model.bin").read_bytes()
                == (plain / "model.bin").read_bytes()
            )
        )
        for _ in range(2):
            assert (
                python(script, f"{mountpoint}", f"{scratch / 'cache'}") == f"{number}"
            )
    context.__exit__(None, None, None)
    assert len(descriptions) == 1
    assert list((scratch / "cache").glob("*.blob"))
