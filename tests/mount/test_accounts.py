"""Two commands without options, for root and for an ordinary user."""

import os
import signal
from pathlib import Path

import pytest

from ovfuse.errors import MountFailedError
from tests.mount.conftest import Sealed
from tests.mount.trees import build_small
from tests.support.mounting import (
    Home,
    Mount,
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


@pytest.mark.parametrize("name", ["new\nline", "two words", "\x1b[31m", "a,b\\c", "é"])
def test_mountpoint_and_cipherdir_may_have_any_name(
    publisher: Home, small: Sealed, scratch: Path, engine: str, name: str
) -> None:
    cipherdir = small.copy(scratch / f"from {name}")
    with mounted(publisher, cipherdir, scratch / name, engine=engine) as mount:
        assert mount.status()["cipherdir"] == f"{cipherdir}"
        assert (scratch / name / "model.xml").stat().st_size == 3000


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
