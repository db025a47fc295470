"""Two commands without options, for root and for an ordinary user."""

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ovfuse.errors import KeyFileError, MountFailedError
from tests.mount.conftest import Sealed
from tests.mount.trees import build_small
from tests.support.mounting import (
    Home,
    Mount,
    daemons_of,
    is_mounted,
    mounted,
    refused_mount,
    run_as,
    run_ovfuse,
    succeed,
)
from tests.support.users import NOBODY, STRANGER, open_directory

pytestmark = pytest.mark.fuse


@pytest.fixture(params=["self", "user"])
def account(request: pytest.FixtureRequest) -> Home:
    """A home without keys: of the account that runs the tests, of an ordinary user."""
    home: Home = request.getfixturevalue(
        {"self": "home", "user": "user"}[request.param]
    )
    return home


@pytest.fixture
def place(account: Home) -> Path:
    """A directory of the account's, with a model directory in it."""
    place = account.make_directory(account.directory / "place")
    build_small(place / "plain")
    return place


def end_by_command(mount: Mount) -> None:
    assert succeed(mount.home, "unmount", mount.mountpoint) == ""
    assert daemons_of(mount.mountpoint) == []


def end_by_signal(mount: Mount) -> None:
    os.kill(mount.pid, signal.SIGTERM)


def end_by_fusermount(mount: Mount) -> None:
    done = run_as(mount.home, "fusermount3", "-u", mount.mountpoint)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("foreground", [False, True], ids=["background", "foreground"])
def test_encrypt_and_mount_work_without_options_however_it_ends(
    account: Home, place: Path, engine: str, foreground: bool
) -> None:
    succeed(account, "encrypt", "plain", "sealed", cwd=place)

    for end in (end_by_command, end_by_signal, end_by_fusermount):
        with mounted(
            account,
            place / "sealed",
            place / "mnt",
            engine=engine,
            foreground=foreground,
        ) as mount:
            diff = run_as(account, "diff", "-r", "plain", "mnt", cwd=place)
            assert (diff.returncode, diff.stdout, diff.stderr) == (0, "", "")
            end(mount)
            mount.wait_for_end()
        assert not any((place / "mnt").iterdir())


def test_paths_may_be_relative_and_mountpoints_links(
    account: Home, place: Path, engine: str
) -> None:
    succeed(account, "encrypt", "plain/", "sealed/", cwd=place)
    account.make_directory(place / "mnt")
    (place / "link").symlink_to("mnt")
    options = ("-o", f"engine={engine}")

    done = run_ovfuse(account, "mount", *options, "sealed", "link", cwd=place)
    assert (done.returncode, done.stdout) == (0, "")
    try:
        assert run_as(account, "diff", "-r", "plain", "mnt", cwd=place).returncode == 0
    finally:
        done = run_ovfuse(account, "unmount", "./link/", cwd=place)
    assert (done.returncode, done.stderr) == (0, "")
    assert not is_mounted(place / "mnt")


@pytest.mark.parametrize("name", ["a new\nline é", "\x1b[31m", "a,b\\c"])
def test_mountpoint_and_cipherdir_may_have_any_name(
    publisher: Home, small: Sealed, scratch: Path, engine: str, name: str
) -> None:
    cipherdir = small.copy(scratch / f"from {name}")
    with mounted(publisher, cipherdir, scratch / name, engine=engine) as mount:
        assert mount.status()["cipherdir"] == f"{cipherdir}"
        assert (scratch / name / "model.xml").stat().st_size == 3000


def test_cipherdir_may_be_a_link_or_on_a_read_only_disk(
    publisher: Home, small: Sealed, scratch: Path, engine: str
) -> None:
    (scratch / "link").symlink_to(small.cipherdir)
    with mounted(publisher, scratch / "link", scratch / "mnt", engine=engine) as mount:
        assert mount.status()["cipherdir"] == f"{small.cipherdir}"
    if os.geteuid() != 0:
        return
    disk = small.copy(scratch / "disk")
    subprocess.run(["mount", "--bind", disk, disk], check=True)
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", disk], check=True)
        with mounted(publisher, disk, scratch / "mnt", engine=engine):
            assert (scratch / "mnt" / "model.xml").exists()
    finally:
        subprocess.run(["umount", disk], check=True)


def test_mount_can_be_sealed_again(
    publisher: Home, small: Sealed, scratch: Path, engine: str
) -> None:
    mountpoint, again = scratch / "mnt", scratch / "again"
    with mounted(publisher, small.cipherdir, mountpoint, engine=engine):
        succeed(publisher, "encrypt", mountpoint, again)
    with mounted(publisher, again, mountpoint, engine=engine):
        diff = run_as(publisher, "diff", "-r", small.plain, mountpoint)
        assert (diff.returncode, diff.stdout) == (0, "")


def test_root_does_not_use_the_keys_of_others(
    user: Home, small: Sealed, scratch: Path, engine: str
) -> None:
    succeed(user, "encrypt", small.plain, user.directory / "sealed")
    (scratch / "mnt").mkdir()
    as_root = Home(directory=user.directory)

    said = refused_mount(
        as_root, KeyFileError, user.directory / "sealed", scratch / "mnt", engine=engine
    )
    assert "belongs to another user" in said


def test_paths_may_be_as_long_as_a_call_takes(
    publisher: Home, scratch: Path, engine: str
) -> None:
    names = ["n" * 255] * 15 + ["f" * 200]
    plain, mountpoint = scratch / "plain", scratch / "mnt"
    plain.mkdir()
    with walking(plain, names[:-1], make=True) as directory:
        fd = os.open(names[-1], os.O_CREAT | os.O_WRONLY, dir_fd=directory)
        os.write(fd, b"deep")
        os.close(fd)
    succeed(publisher, "encrypt", plain, scratch / "sealed")

    with (
        mounted(publisher, scratch / "sealed", mountpoint, engine=engine),
        walking(mountpoint, names[:-1]) as directory,
    ):
        assert os.listdir(directory) == names[-1:]
        fd = os.open(names[-1], os.O_RDONLY, dir_fd=directory)
        assert os.read(fd, 10) == b"deep"
        os.close(fd)


@contextmanager
def walking(top: Path, names: list[str], *, make: bool = False) -> Iterator[int]:
    """A descriptor of the directory that lies so deep below another."""
    directory = os.open(top, os.O_RDONLY)
    try:
        for name in names:
            if make:
                os.mkdir(name, dir_fd=directory)
            inner = os.open(name, os.O_RDONLY, dir_fd=directory)
            os.close(directory)
            directory = inner
        yield directory
    finally:
        os.close(directory)


def test_others_see_nothing_unless_the_operator_lets_them(
    user: Home, publisher: Home, small: Sealed, scratch: Path, engine: str
) -> None:
    with mounted(publisher, small.cipherdir, scratch / "mnt", engine=engine):
        done = run_as(user, "ls", scratch / "mnt")
        assert (done.returncode, done.stdout) == (2, "")
        assert "Permission denied" in done.stderr

    options = ("-o", "allow_other")
    with mounted(publisher, small.cipherdir, scratch / "mnt", *options, engine=engine):
        done = run_as(user, "diff", "-r", small.plain, scratch / "mnt")
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_owner_and_modes_are_as_the_options_say(
    user: Home, publisher: Home, small: Sealed, scratch: Path, engine: str
) -> None:
    options = ("-o", f"allow_other,uid={NOBODY},gid=7", "-o", "umask=077,ro,_netdev")
    with mounted(publisher, small.cipherdir, scratch / "mnt", *options, engine=engine):
        file = (scratch / "mnt" / "model.xml").stat()
        directory = (scratch / "mnt" / "sub").stat()
        read = run_as(user, "cat", scratch / "mnt" / "sub" / "labels.txt")

    assert (file.st_uid, file.st_gid, file.st_mode) == (NOBODY, 7, 0o100400)
    assert (directory.st_uid, directory.st_gid) == (NOBODY, 7)
    assert directory.st_mode == 0o40500
    assert read.stdout == "cat\ndog\n"


@pytest.mark.parametrize("runtime", ["long", "missing", "open"])
def test_runtime_directory_that_cannot_be_used(
    user: Home, small: Sealed, engine: str, runtime: str
) -> None:
    place = user.make_directory(user.directory / "place")
    mountpoint = user.make_directory(place / "mnt")
    succeed(user, "encrypt", small.plain, place / "sealed")
    names = {"long": "r" * 100, "missing": "none/none", "open": "open"}
    directory = place / names[runtime]
    if runtime != "missing":
        user.make_directory(directory)
    if runtime == "open":
        user.make_directory(directory / "ovfuse").chmod(0o777)
    there = Home(
        directory=user.directory,
        uid=user.uid,
        program=user.program,
        extra={"XDG_RUNTIME_DIR": f"{directory}"},
    )

    said = refused_mount(
        there, MountFailedError, place / "sealed", mountpoint, engine=engine
    )
    reasons = {
        "long": "AF_UNIX path too long",
        "missing": "No such file or directory",
        "open": "it is not a private directory of this account",
    }
    assert reasons[runtime] in said


def test_account_that_fusermount_does_not_know_gets_one_line(
    program: tuple[str, ...], engine: str
) -> None:
    with open_directory(STRANGER) as directory:
        home = Home(directory=directory / "home", uid=STRANGER, program=program)
        build_small(directory / "plain")
        succeed(home, "encrypt", directory / "plain", directory / "sealed")
        mountpoint = home.make_directory(directory / "mnt")

        refused_mount(
            home,
            MountFailedError,
            directory / "sealed",
            mountpoint,
            engine=engine,
        )
