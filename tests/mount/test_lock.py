"""`ovfuse lock` takes the keys from a mount, and `ovfuse unlock` gives them back."""

import errno
import json
import mmap
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

import pytest

from ovfuse.errors import (
    KeyFileError,
    MountFailedError,
    MountpointError,
    NotMountedError,
    NoUsableKeyError,
)
from ovfuse.serve.control import runtime_directory, socket_path
from tests.mount.conftest import Sealed
from tests.mount.locking import (
    FILES,
    LARGE,
    Readers,
    current_pid,
    errno_of,
    lock,
    opened,
    reading,
    serving,
    state_of,
    unlock,
)
from tests.mount.resealing import Resealed, version_of
from tests.support.held_memory import cached_pages, holds, model_key_of
from tests.support.killing import parent_of
from tests.support.mounting import (
    Home,
    Mount,
    daemons_of,
    is_gone,
    mounted,
    refused,
    run_as,
    start_ovfuse,
    succeed,
)
from tests.support.prompts import type_into
from tests.support.sealed import pattern, write_files
from tests.support.users import needs_root
from tests.support.waiting import wait_until

pytestmark = pytest.mark.fuse

LATER = frozenset({errno.EACCES, errno.ESTALE})
"""What reads of descriptors may end in that were open before."""
MiB = 1 << 20
PASSPHRASE = "correct horse battery"


@pytest.fixture(scope="module")
def locking(shared: Path, publisher: Home) -> Sealed:
    """A sealed model with large and small files; tests leave it alone."""
    plain = write_files(shared / "plain" / "locking", FILES)
    succeed(publisher, "encrypt", plain, shared / "locking")
    return Sealed(plain=plain, cipherdir=shared / "locking")


@pytest.fixture
def mount(publisher: Home, locking: Sealed, mountpoint: Path) -> Iterator[Mount]:
    """The model, served as by default."""
    with serving(publisher, locking.cipherdir, mountpoint) as mount:
        yield mount


@pytest.fixture
def on_demand(publisher: Home, locking: Sealed, mountpoint: Path) -> Iterator[Mount]:
    """The model, with nothing in memory."""
    with serving(publisher, locking.cipherdir, mountpoint, "resident=never") as mount:
        yield mount


@pytest.fixture
def lonely(home: Home, locking: Sealed, scratch: Path) -> Iterator[Mount]:
    """A mount of somebody whose identity a test may take away."""
    succeed(home, "keygen")
    succeed(home, "encrypt", locking.plain, scratch / "sealed")
    with serving(home, scratch / "sealed", scratch / "mnt") as mount:
        yield mount


def read_all(top: Path) -> None:
    for name, data in FILES.items():
        assert (top / name).read_bytes() == data


def check_closed(top: Path) -> None:
    """Assert that nothing at all can be reached by a path."""
    for name in FILES:
        assert errno_of(os.open, top / name, os.O_RDONLY) == errno.EACCES
        assert errno_of(os.stat, top / name) == errno.EACCES
    assert errno_of(os.listdir, top) == errno.EACCES
    assert errno_of(os.listdir, top / "sub") == errno.EACCES
    assert errno_of(os.stat, top / "none") == errno.EACCES


def shmem() -> int:
    """Return how much memory of tmpfs and the like is in use, in bytes."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("Shmem:"):
            return int(line.split()[1]) * 1024
    raise AssertionError


@contextmanager
def holding(path: Path, script: str) -> Iterator[subprocess.Popen[str]]:
    """Run a script in another process, which says when it has the file."""
    start = (
        "import mmap, os, sys\n"
        "fd = os.open(sys.argv[1], os.O_RDONLY)\n"
        f"{script}\n"
        "print('ready', flush=True)\n"
        "sys.stdin.readline()\n"
    )
    command = [sys.executable, "-c", start, os.fspath(path)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        try:
            yield process
        finally:
            process.kill()


MAPPING = "m = mmap.mmap(fd, 0, prot=mmap.PROT_READ); os.close(fd)"


STRANGE: tuple[object, ...] = (
    {"command": "unlock", "identities": "x"},
    {"command": "unlock", "identities": [{}]},
    {"command": "unlock", "identities": ["a\0b"]},
    {"command": "unlock", "identities": ["\ud800"]},
    {"command": "unlock", "identities": {"a": 1}},
    {"command": "unlock", "passphrase": 5},
    {"command": "unlock", "identities": [], "passphrase": ["x"]},
    {"command": ["unlock"]},
    {"command": "__init__"},
    ["unlock"],
)


def socket_of(mount: Mount) -> Path:
    return socket_path(mount.mountpoint, runtime_directory())


# What is gone


def test_nothing_can_be_opened_or_looked_up(mount: Mount, mountpoint: Path) -> None:
    read_all(mountpoint)
    before = mount.pid
    lock(mount)

    assert state_of(mount) == "locked"
    assert mount.status()["models"] == []
    check_closed(mountpoint)
    assert is_gone(before)
    assert mountpoint.stat().st_ino == 1
    os.statvfs(mountpoint)

    unlock(mount)
    assert state_of(mount) == "serving"
    read_all(mountpoint)
    assert sorted(os.listdir(mountpoint)) == ["model.bin", "model.xml", "sub"]


def test_what_was_open_cannot_be_read(on_demand: Mount, mountpoint: Path) -> None:
    directory = os.open(mountpoint / "sub", os.O_RDONLY)
    with ExitStack() as stack:
        stack.callback(os.close, directory)
        files = {name: stack.enter_context(opened(mountpoint / name)) for name in FILES}
        for name, fd in files.items():
            assert os.pread(fd, len(FILES[name]), 0) == FILES[name]
        lock(on_demand)

        for fd in files.values():
            assert errno_of(os.pread, fd, 100, 0) == errno.EACCES
        assert errno_of(os.listdir, directory) in LATER
        assert errno_of(os.stat, Path(f"/proc/self/fd/{directory}/more.bin")) in LATER

        unlock(on_demand)
        for name, fd in files.items():
            assert os.pread(fd, len(FILES[name]), 0) == FILES[name]
        assert os.listdir(directory) == ["labels.txt", "more.bin"]
        read_all(mountpoint)


def test_page_cache_is_emptied(on_demand: Mount, mountpoint: Path) -> None:
    with ExitStack() as stack:
        files = {name: stack.enter_context(opened(mountpoint / name)) for name in FILES}
        read_all(mountpoint)
        for name, fd in files.items():
            size = len(FILES[name])
            assert cached_pages(fd, size) == -(-size // mmap.PAGESIZE)
        lock(on_demand)

        for name, fd in files.items():
            assert cached_pages(fd, len(FILES[name])) == 0


@needs_root
def test_files_in_memory_are_freed_at_once(
    publisher: Home, scratch: Path, mountpoint: Path
) -> None:
    """Those that wait for their end after the last close as well."""
    data = pattern(48 * MiB)
    plain = write_files(scratch / "plain", {"weights.bin": data})
    succeed(publisher, "encrypt", plain, scratch / "sealed")
    with serving(publisher, scratch / "sealed", mountpoint) as mount:
        before = shmem()
        assert (mountpoint / "weights.bin").read_bytes() == data
        assert mount.status()["resident_bytes"] == len(data)
        assert shmem() > before + len(data) // 2
        lock(mount)

        wait_until(lambda: shmem() < before + len(data) // 2)
        assert state_of(mount) == "locked"


@needs_root
def test_key_is_in_no_memory(publisher: Home, mount: Mount, locking: Sealed) -> None:
    key = model_key_of(publisher, locking.cipherdir)
    keeper = parent_of(mount.pid)
    read_all(mount.mountpoint)
    assert holds(keeper, key)
    assert holds(mount.pid, key)
    lock(mount)

    daemon = current_pid(mount, "locked")
    assert parent_of(daemon) == keeper
    assert not holds(keeper, key)
    assert not holds(daemon, key)

    unlock(mount)
    assert holds(keeper, key)
    daemon = current_pid(mount)
    identity = next(
        line.encode()
        for line in publisher.identity.read_text().splitlines()
        if line.startswith("AGE-SECRET-KEY-")
    )
    lock(mount)
    daemon = current_pid(mount, "locked")
    for pid in (keeper, daemon):
        assert not holds(pid, key)
        assert not holds(pid, identity)


@needs_root
def test_key_is_in_no_memory_after_a_kill_and_a_reload(
    publisher: Home, mount: Mount, locking: Sealed
) -> None:
    key = model_key_of(publisher, locking.cipherdir)
    keeper = parent_of(mount.pid)
    os.kill(mount.pid, signal.SIGKILL)
    wait_until(lambda: is_gone(mount.pid))
    current_pid(mount)
    succeed(publisher, "reload", mount.mountpoint)
    read_all(mount.mountpoint)
    assert holds(keeper, key)
    lock(mount)

    for pid in (keeper, current_pid(mount, "locked")):
        assert not holds(pid, key)


# In use


@needs_root
def test_open_file_in_memory_is_in_use(mount: Mount, mountpoint: Path) -> None:
    with reading(mountpoint, FILES), holding(mountpoint / LARGE[0], "") as holder:
        said = refused(mount.home, MountpointError, "lock", mountpoint)

        assert f"(pid {holder.pid})" in said
        assert "use --force" in said
        assert state_of(mount) == "serving"


@pytest.mark.parametrize("resident", ["auto", "never"])
def test_mapped_file_is_in_use(
    publisher: Home, locking: Sealed, mountpoint: Path, resident: str
) -> None:
    with (
        serving(
            publisher, locking.cipherdir, mountpoint, f"resident={resident}"
        ) as mount,
        reading(mountpoint, FILES),
        holding(mountpoint / "model.bin", MAPPING) as holder,
    ):
        before = mount.pid
        for _ in range(3):
            said = refused(publisher, MountpointError, "lock", mountpoint)
            assert f"(pid {holder.pid})" in said

        assert state_of(mount) == "serving"
        assert current_pid(mount) == before


def test_file_that_is_open_but_not_in_memory_is_not_in_use(
    on_demand: Mount, mountpoint: Path
) -> None:
    with holding(mountpoint / "model.bin", "os.read(fd, 10)"):
        lock(on_demand)


@pytest.mark.parametrize("resident", ["auto", "never"])
def test_forced_lock_takes_it_from_under_a_mapping(
    publisher: Home, locking: Sealed, mountpoint: Path, resident: str
) -> None:
    script = f"{MAPPING}; assert len(m[:]) == {len(FILES['model.bin'])}"
    with (
        serving(
            publisher, locking.cipherdir, mountpoint, f"resident={resident}"
        ) as mount,
        holding(mountpoint / "model.bin", f"{script}\nsys.argv.append(m)") as holder,
    ):
        lock(mount, "--force")
        check_closed(mountpoint)
        assert holder.stdin is not None

        unlock(mount)
        holder.kill()
        holder.wait()
        read_all(mountpoint)


@pytest.mark.parametrize("resident", ["auto", "never"])
def test_mapping_that_was_taken_away_is_a_sigbus(
    publisher: Home, locking: Sealed, mountpoint: Path, resident: str
) -> None:
    script = (
        f"{MAPPING}; assert len(m[:]) > 9\n"
        "print('ready', flush=True); sys.stdin.readline(); print(m[0])"
    )
    with (
        serving(
            publisher, locking.cipherdir, mountpoint, f"resident={resident}"
        ) as mount,
        holding(mountpoint / "model.bin", script) as holder,
    ):
        lock(mount, "--force")
        stdout, _ = holder.communicate("go\n", timeout=30)
        assert stdout == ""
        assert holder.returncode == -signal.SIGBUS

        unlock(mount)
        read_all(mountpoint)


@needs_root
def test_reads_of_a_file_that_was_taken_away_end_early(
    mount: Mount, mountpoint: Path
) -> None:
    size = len(FILES["model.bin"])
    with opened(mountpoint / "model.bin") as fd:
        assert os.pread(fd, size, 0) == FILES["model.bin"]
        lock(mount, "--force")
        assert os.pread(fd, size, 0) == b""

        unlock(mount)
        assert FILES["model.bin"].startswith(os.pread(fd, size, 0))
    wait_until(lambda: errno_of(os.stat, mountpoint / "model.bin") is None)
    read_all(mountpoint)


# What stays so


def test_locked_mount_stays_locked(mount: Mount, mountpoint: Path) -> None:
    keeper = parent_of(mount.pid)
    lock(mount)
    lock(mount)
    lock(mount, "--force")
    before = current_pid(mount, "locked")
    os.kill(before, signal.SIGKILL)
    wait_until(lambda: is_gone(before))
    after = current_pid(mount, "locked")
    check_closed(mountpoint)

    succeed(mount.home, "reload", mountpoint)
    assert state_of(mount) == "locked"
    assert current_pid(mount, "locked") != after
    check_closed(mountpoint)
    assert parent_of(current_pid(mount, "locked")) == keeper

    unlock(mount)
    read_all(mountpoint)


def test_mount_that_is_not_locked_cannot_be_unlocked(mount: Mount) -> None:
    said = refused(mount.home, MountpointError, "unlock", mount.mountpoint)
    assert "is not locked" in said
    read_all(mount.mountpoint)


@needs_root
def test_request_that_is_not_one_changes_nothing(mount: Mount) -> None:
    """Anything may be sent to the socket, and by several at once."""
    lock(mount)
    for request in STRANGE:
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(os.fspath(socket_of(mount)))
            client.sendall(json.dumps(request).encode() + b"\n")
            assert "error" in json.loads(client.makefile().readline())
    assert state_of(mount) == "locked"
    check_closed(mount.mountpoint)
    unlock(mount)


def test_libfuse_cannot_be_locked(
    publisher: Home, locking: Sealed, mountpoint: Path
) -> None:
    with mounted(publisher, locking.cipherdir, mountpoint, engine="libfuse") as mount:
        for options in ((), ("--force",)):
            said = refused(publisher, MountFailedError, "lock", *options, mountpoint)
            assert "engine=libfuse" in said
        read_all(mountpoint)
        assert state_of(mount) == "serving"


@pytest.mark.parametrize("command", ["lock", "unlock", "reload"])
def test_nothing_is_mounted_there(
    publisher: Home, mountpoint: Path, command: str
) -> None:
    assert "no ovfuse mount" in refused(publisher, NotMountedError, command, mountpoint)


# Keys


def test_without_an_identity_it_stays_locked(lonely: Mount) -> None:
    home = lonely.home
    aside = home.identity.rename(home.directory / "aside é.txt")
    lock(lonely)
    said = refused(home, NoUsableKeyError, "unlock", lonely.mountpoint)
    assert f"{home.identity}" in said
    assert state_of(lonely) == "locked"
    check_closed(lonely.mountpoint)

    unlock(lonely, "-i", aside.name)
    read_all(lonely.mountpoint)
    assert current_pid(lonely)


def test_identity_of_somebody_else_does_not_unlock(
    lonely: Mount, publisher: Home, scratch: Path
) -> None:
    lock(lonely)
    for path, error in (
        (publisher.identity, NoUsableKeyError),
        (scratch / "none", KeyFileError),
    ):
        refused(lonely.home, error, "unlock", "-i", path, lonely.mountpoint)
        assert state_of(lonely) == "locked"
    check_closed(lonely.mountpoint)
    unlock(lonely)
    read_all(lonely.mountpoint)


def test_long_paths_of_identities_arrive(lonely: Mount, scratch: Path) -> None:
    """More than the 4096 bytes that a path may have, as JSON has them."""
    directory = scratch / ("\u00e9" * 120) / ("\u00e9" * 120) / ("\u00e9" * 120)
    directory.mkdir(parents=True)
    path = lonely.home.identity.rename(directory / "identity.txt")
    lock(lonely)
    unlock(lonely, "-i", path, "-i", path)
    read_all(lonely.mountpoint)


@pytest.fixture
def typed(home: Home, locking: Sealed, scratch: Path) -> Iterator[Mount]:
    """The mount of a model that only a passphrase opens."""
    sealed, mountpoint = scratch / "typed", scratch / "mnt"
    words = ("encrypt", "-p", locking.plain, sealed)
    done = type_into(home, *words, answers=[PASSPHRASE, PASSPHRASE])
    assert done.code == 0, done.stderr
    mountpoint.mkdir()
    done = type_into(home, "mount", sealed, mountpoint, answers=[PASSPHRASE])
    assert done.code == 0, done.stderr
    yield Mount(home=home, mountpoint=mountpoint)
    succeed(home, "unmount", mountpoint)
    wait_until(lambda: not daemons_of(mountpoint))


def test_passphrase_is_asked_for(typed: Mount) -> None:
    home, mountpoint = typed.home, typed.mountpoint
    lock(typed)
    refused(home, NoUsableKeyError, "unlock", mountpoint)
    done = type_into(home, "unlock", mountpoint, answers=["not that one"])
    assert done.code == NoUsableKeyError.exit_code
    assert state_of(typed) == "locked"
    check_closed(mountpoint)

    done = type_into(home, "unlock", mountpoint, answers=[PASSPHRASE])
    assert (done.code, done.stderr) == (0, "")
    assert f"passphrase for {mountpoint}: " in done.screen
    read_all(mountpoint)


@needs_root
def test_nothing_of_a_refused_unlock_is_left_in_memory(
    typed: Mount, publisher: Home
) -> None:
    lock(typed)
    keeper = parent_of(current_pid(typed, "locked"))
    wrong = "this is not the passphrase of that"
    done = type_into(typed.home, "unlock", typed.mountpoint, answers=[wrong])
    assert done.code == NoUsableKeyError.exit_code
    words = ("unlock", "-i", publisher.identity, typed.mountpoint)
    refused(typed.home, NoUsableKeyError, *words)

    (identity,) = re.findall("AGE-SECRET-KEY-[0-9A-Z]+", publisher.identity.read_text())
    for pid in (keeper, current_pid(typed, "locked")):
        assert not holds(pid, wrong.encode())
        assert not holds(pid, identity.encode())


# Others meanwhile


def has_read_on(readers: Readers) -> bool:
    return readers.reads > 10


@pytest.mark.parametrize("options", [(), ("--force",)])
def test_readers_get_right_bytes_or_a_refusal(
    publisher: Home, locking: Sealed, mountpoint: Path, options: tuple[str, ...]
) -> None:
    choice = "resident=auto" if options else "resident=never"
    allowed = {errno.EACCES, errno.ESTALE}
    if options:  # by force, who still has a file of memory open keeps others from it
        allowed.add(errno.EIO)
    with (
        serving(publisher, locking.cipherdir, mountpoint, choice) as mount,
        reading(mountpoint, FILES, allowed=frozenset(allowed)) as readers,
    ):
        for _ in range(3):
            lock(mount, *options)
            check_closed(mountpoint)
            assert readers.refusals
            unlock(mount)
            readers.reads = 0
            wait_until(partial(has_read_on, readers))


@pytest.fixture
def tree(publisher: Home, scratch: Path) -> tuple[Resealed, Resealed]:
    """Two models in one tree."""
    return (
        Resealed(publisher, scratch / "tree/org/a", scratch / "plain-a").seal(),
        Resealed(publisher, scratch / "tree/b", scratch / "plain-b").seal(),
    )


def version_at(top: Path) -> int:
    return version_of((top / "model.bin").read_bytes())


def test_tree_is_locked_as_a_whole(
    publisher: Home, tree: tuple[Resealed, Resealed], scratch: Path, mountpoint: Path
) -> None:
    first, second = mountpoint / "org/a", mountpoint / "b"
    with serving(publisher, scratch / "tree", mountpoint) as mount:
        assert (version_at(first), version_at(second)) == (1, 1)
        lock(mount)
        for path in (first, second, first / "model.bin", mountpoint / "org"):
            assert errno_of(os.stat, path) == errno.EACCES
        tree[0].seal()  # what is sealed meanwhile is shown afterwards
        assert errno_of(os.listdir, mountpoint) == errno.EACCES

        unlock(mount)
        wait_until(lambda: version_at(first) == 2)
        assert version_at(second) == 1
        assert sorted(os.listdir(mountpoint)) == ["b", "org"]


def test_identities_of_an_unlock_open_all_of_a_tree(
    home: Home, scratch: Path, mountpoint: Path
) -> None:
    succeed(home, "keygen")
    for name in ("a", "b"):
        Resealed(home, scratch / "tree" / name, scratch / f"plain-{name}").seal()
    with serving(home, scratch / "tree", mountpoint) as mount:
        lock(mount)
        aside = home.identity.rename(scratch / "aside")
        unlock(mount, "-i", aside)
        assert version_at(mountpoint / "a") == version_at(mountpoint / "b") == 1


@needs_root
def test_sealing_at_the_moment_of_a_lock_leaves_no_key(
    publisher: Home, tree: tuple[Resealed, Resealed], scratch: Path, mountpoint: Path
) -> None:
    ended = threading.Event()

    def seal_on() -> None:
        while not ended.is_set():
            tree[1].seal()

    sealing = threading.Thread(target=seal_on)
    with serving(publisher, scratch / "tree", mountpoint) as mount:
        version_at(mountpoint / "b")
        keeper = parent_of(mount.pid)
        sealing.start()
        try:
            for _ in range(4):
                lock(mount)
                left = opened_by(keeper)
                assert not [link for link in left if "/tree" in link], left
                unlock(mount)
                wait_until(lambda: is_open_to_read(mountpoint / "b"))
        finally:
            ended.set()
            sealing.join()
        lock(mount)
        daemon = current_pid(mount, "locked")
        for model in tree:
            key = model_key_of(publisher, model.cipherdir)
            assert not holds(keeper, key)
            assert not holds(daemon, key)
        unlock(mount)
        wait_until(lambda: version_at(mountpoint / "b") == tree[1].version)


def is_open_to_read(top: Path) -> bool:
    """Tell whether it is read whole, and is not replaced again and again meanwhile."""
    error = errno_of(version_at, top)
    assert error in {None, errno.ESTALE}
    return error is None


def opened_by(pid: int) -> list[str]:
    return [f"{link.readlink()}" for link in Path(f"/proc/{pid}/fd").iterdir()]


def test_many_commands_at_once(mount: Mount, mountpoint: Path) -> None:
    """Whatever their order, each does what it says or says why not."""
    words = ["lock", "unlock", "reload", "lock", "unlock", "lock"]
    commands = [start_ovfuse(mount.home, word, mountpoint) for word in words]
    for command in commands:
        stdout, stderr = command.communicate(timeout=120)
        assert stdout == ""
        assert command.returncode in {0, MountpointError.exit_code}, stderr
    wait_until(lambda: state_of(mount) in {"locked", "serving"})
    if state_of(mount) == "locked":
        unlock(mount)
    read_all(mountpoint)


# Accounts


def test_ordinary_users_mount(user: Home, locking: Sealed) -> None:
    cipherdir, mountpoint = user.directory / "sealed", user.directory / "mnt"
    succeed(user, "keygen")
    succeed(user, "encrypt", locking.plain, cipherdir)
    with mounted(user, cipherdir, mountpoint, engine="kernel") as mount:
        diff = run_as(user, "diff", "-r", locking.plain, mountpoint)
        assert diff.returncode == 0, diff.stderr
        lock(mount)
        assert state_of(mount) == "locked"
        done = run_as(user, "ls", mountpoint)
        assert "Permission denied" in done.stderr
        done = run_as(user, "cat", mountpoint / "model.bin")
        assert (done.returncode, done.stdout) == (1, "")
        assert "Permission denied" in done.stderr

        os.kill(current_pid(mount, "locked"), signal.SIGKILL)
        current_pid(mount, "locked")
        unlock(mount)
        diff = run_as(user, "diff", "-r", locking.plain, mountpoint)
        assert diff.returncode == 0, diff.stderr
