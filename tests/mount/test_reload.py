"""`ovfuse reload`: the program as it is installed now goes on with a mount."""

import base64
import mmap
import os
import shutil
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

import ovfuse
from ovfuse.errors import MountFailedError
from tests.mount.conftest import Sealed
from tests.mount.locking import (
    FILES,
    current_pid,
    opened,
    reading,
    serving,
    state_of,
)
from tests.mount.resealing import Resealed, content_of, version_of
from tests.support.held_memory import model_key_of
from tests.support.killing import parent_of
from tests.support.mounting import (
    OVFUSE,
    Home,
    Mount,
    daemons_of,
    is_gone,
    mounted,
    refused,
    run_as,
    succeed,
)
from tests.support.sealed import write_files
from tests.support.users import needs_root
from tests.support.waiting import wait_until

pytestmark = pytest.mark.fuse


@pytest.fixture(scope="module")
def reloading(shared: Path, publisher: Home) -> Sealed:
    """A sealed model with large and small files; tests leave it alone."""
    plain = write_files(shared / "plain" / "reloading", FILES)
    succeed(publisher, "encrypt", plain, shared / "reloading")
    return Sealed(plain=plain, cipherdir=shared / "reloading")


@pytest.fixture
def copied(publisher: Home, scratch: Path) -> Home:
    """Somebody with an installation of his own, which tests may break."""
    shutil.copytree(Path(ovfuse.__file__).parent, scratch / "lib" / "ovfuse")
    return replace(
        publisher,
        program=(sys.executable, "-P", "-m", "ovfuse"),
        extra={"PYTHONPATH": f"{scratch / 'lib'}"},
    )


def reload(mount: Mount) -> None:
    """Reload; another process serves then, and the keeper is the same."""
    daemon = current_pid(mount)
    keeper = parent_of(daemon)
    assert succeed(mount.home, "reload", mount.mountpoint) == ""
    assert current_pid(mount) != daemon
    assert parent_of(current_pid(mount)) == keeper


def is_version(mount: Mount, version: int) -> bool:
    return bool(mount.model()["version"] == version)


def check_all(top: Path) -> None:
    for name, data in FILES.items():
        assert (top / name).read_bytes() == data


@pytest.mark.parametrize("foreground", [False, True], ids=["background", "foreground"])
def test_readers_do_not_notice(
    publisher: Home, reloading: Sealed, mountpoint: Path, foreground: bool
) -> None:
    with (
        mounted(
            publisher,
            reloading.cipherdir,
            mountpoint,
            engine="kernel",
            foreground=foreground,
        ) as mount,
        opened(mountpoint / "model.bin") as fd,
        opened(mountpoint / "model.xml") as small,
        mmap.mmap(fd, 0, prot=mmap.PROT_READ) as mapping,
        reading(mountpoint, FILES) as readers,
    ):
        for _ in range(3):
            reload(mount)
            readers.reads = 0
            wait_until(lambda: readers.reads > 2 * len(FILES))
            assert os.pread(fd, len(mapping), 0) == mapping[:] == FILES["model.bin"]
            assert os.pread(small, 1 << 20, 0) == FILES["model.xml"]
    assert daemons_of(mountpoint) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_foreground_ends_by_a_signal(
    publisher: Home, reloading: Sealed, mountpoint: Path, number: int
) -> None:
    with mounted(
        publisher, reloading.cipherdir, mountpoint, engine="kernel", foreground=True
    ) as mount:
        reload(mount)
        os.kill(parent_of(current_pid(mount)), number)
        mount.wait_for_end()


def test_ordinary_users_mount(
    user: Home, program: tuple[str, ...], reloading: Sealed
) -> None:
    """Whose program can be started by its name alone, unlike that of other tests."""
    home = replace(
        user,
        program=(program[0], "-P", "-m", "ovfuse"),
        extra={"PYTHONPATH": f"{Path(program[-1]).parent / 'lib'}"},
    )
    cipherdir, mountpoint = user.directory / "sealed", user.directory / "mnt"
    succeed(home, "keygen")
    succeed(home, "encrypt", reloading.plain, cipherdir)
    with mounted(home, cipherdir, mountpoint, engine="kernel") as mount:
        for _ in range(2):
            diff = run_as(home, "diff", "-r", reloading.plain, mountpoint)
            assert (diff.returncode, diff.stdout) == (0, "")
            reload(mount)
        diff = run_as(home, "diff", "-r", reloading.plain, mountpoint)
        assert (diff.returncode, diff.stdout) == (0, "")


@pytest.mark.parametrize("name", [b"a,b\\c \xff\xfe", b"new\nline"])
def test_places_and_options_mean_the_same(
    publisher: Home, home: Home, reloading: Sealed, scratch: Path, name: bytes
) -> None:
    """Relative ones are of the directory in which it was mounted."""
    place = scratch / os.fsdecode(name)
    place.mkdir()
    cipherdir, mountpoint = reloading.copy(place / "sealed"), place / "mnt"
    shutil.copy(publisher.identity, place / "id.txt")
    shutil.copy(publisher.public_key, place / "pub")
    words = ("-i", "id.txt", "--verify-key", "pub", "-o", "log=the.log,umask=077")
    mountpoint.mkdir()
    succeed(home, "mount", *words, "sealed", "mnt", cwd=place)
    try:
        mount = Mount(home=home, mountpoint=mountpoint)
        for _ in range(2):
            reload(mount)
            check_all(mountpoint)
        assert (mountpoint / "model.xml").stat().st_mode & 0o777 == 0o400
        assert (place / "the.log").read_text().count(": reloaded\n") == 2
        (cipherdir / "x").touch()
        assert mount.status()["models"][0]["state"] == "unlocked"
        assert not Path("/the.log").exists()
    finally:
        succeed(home, "unmount", mountpoint)
        wait_until(lambda: not daemons_of(mountpoint))


def test_what_was_replaced_and_removed_is_read_on(
    publisher: Home, scratch: Path, mountpoint: Path
) -> None:
    model = Resealed(publisher, scratch / "sealed", scratch / "plain").seal()
    with (
        serving(publisher, model.cipherdir, mountpoint) as mount,
        opened(mountpoint / "model.xml") as fd,
    ):
        for version in (2, 3):  # the first one is removed with the third
            model.seal()
            wait_until(partial(is_version, mount, version))
        reload(mount)
        assert os.pread(fd, 4096, 0) == content_of(1, 4096)
        assert version_of((mountpoint / "model.xml").read_bytes()) == 3

        model.seal()
        wait_until(lambda: version_of((mountpoint / "model.xml").read_bytes()) == 4)
        reload(mount)
        assert os.pread(fd, 4096, 0) == content_of(1, 4096)
        assert version_of((mountpoint / "sub/labels.txt").read_bytes()) == 4


# What does not work


def _break(package: Path) -> None:
    (package / "serve" / "kernel" / "engine.py").write_text("nonsense(\n")


def _remove(package: Path) -> None:
    (package / "serve" / "open_files.py").unlink()


def _renumber(package: Path) -> None:
    path = package / "serve" / "survival" / "reload.py"
    text = path.read_text()
    assert "\n_VERSION: Final = 1\n" in text
    path.write_text(text.replace("_VERSION: Final = 1\n", "_VERSION: Final = 2\n"))


@pytest.mark.parametrize(
    ("harm", "reason"),
    [
        (_break, "SyntaxError"),
        (_remove, "No module named"),
        (_renumber, "the records are of another version"),
    ],
)
def test_program_that_does_not_work_is_not_taken(
    copied: Home, reloading: Sealed, mountpoint: Path, harm: object, reason: str
) -> None:
    assert callable(harm)
    publisher = replace(copied, program=OVFUSE, extra={})
    with serving(copied, reloading.cipherdir, mountpoint) as mount:
        reload(mount)  # it is a copy that works
        before = current_pid(mount)
        harm(Path(copied.extra["PYTHONPATH"]) / "ovfuse")
        mount.home = publisher
        with reading(mountpoint, FILES):
            said = refused(publisher, MountFailedError, "reload", mountpoint)
        assert "not reloaded: it does not work: " in said
        assert reason in said
        assert current_pid(mount) == before
        assert state_of(mount) == "serving"


def test_libfuse_cannot_be_reloaded(
    publisher: Home, reloading: Sealed, mountpoint: Path
) -> None:
    with mounted(publisher, reloading.cipherdir, mountpoint, engine="libfuse"):
        said = refused(publisher, MountFailedError, "reload", mountpoint)
        assert "this engine cannot" in said
        check_all(mountpoint)


# What is left


def descriptors_of(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def children_of(pid: int) -> list[int]:
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(child) for child in text.split()]


class Watch:
    """Looks for a key where every process of the account could see it."""

    def __init__(self, key: bytes) -> None:
        self._forms = (key, key.hex().encode(), base64.b64encode(key)[:40])
        self.found: list[str] = []
        self.looked = 0
        self.ended = threading.Event()

    def watch(self) -> None:
        while not self.ended.is_set():
            for process in Path("/proc").iterdir():
                if process.name.isdecimal():
                    self._look(process)
            self.looked += 1

    def _look(self, process: Path) -> None:
        for name in ("cmdline", "environ"):
            with suppress(OSError):
                data = (process / name).read_bytes()
                if any(form in data for form in self._forms):
                    self.found.append(f"{process.name} {name}")


@contextmanager
def watching(key: bytes) -> Iterator[None]:
    watch = Watch(key)
    thread = threading.Thread(target=watch.watch)
    thread.start()
    try:
        yield
    finally:
        watch.ended.set()
        thread.join()
    assert watch.looked
    assert watch.found == []


@needs_root
def test_ten_reloads_leave_nothing(
    publisher: Home, reloading: Sealed, mountpoint: Path
) -> None:
    with (
        serving(publisher, reloading.cipherdir, mountpoint) as mount,
        opened(mountpoint / "model.bin"),
        opened(mountpoint / "model.xml"),
        watching(model_key_of(publisher, reloading.cipherdir)),
    ):
        reload(mount)
        daemon = current_pid(mount)
        keeper = parent_of(daemon)
        wait_until(lambda: children_of(keeper) == [daemon])  # it looked for identities
        kept, served = descriptors_of(keeper), descriptors_of(daemon)
        for _ in range(10):
            reload(mount)
        daemon = current_pid(mount)
        wait_until(lambda: children_of(keeper) == [daemon])
        assert sorted(daemons_of(mountpoint)) == sorted([keeper, daemon])
        wait_until(lambda: descriptors_of(keeper) == kept)
        wait_until(lambda: descriptors_of(daemon) <= served)
        check_all(mountpoint)
    assert is_gone(keeper)


@needs_root
def test_signal_during_a_reload_is_not_lost(
    publisher: Home, reloading: Sealed, mountpoint: Path
) -> None:
    """Also while the new program is being started, and before it takes signals."""
    for _ in range(2):
        with serving(publisher, reloading.cipherdir, mountpoint) as mount:
            daemon = mount.pid
            keeper = parent_of(daemon)
            thread = threading.Thread(
                target=run_as,
                args=(publisher, *publisher.program, "reload", mountpoint),
            )
            thread.start()
            wait_until(partial(is_gone, daemon))
            os.kill(keeper, signal.SIGTERM)
            mount.wait_for_end()
            thread.join()
