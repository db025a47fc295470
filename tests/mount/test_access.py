"""Who may read a mount: accounts and groups, as on any disk."""

import grp
import os
import pwd
import subprocess
from pathlib import Path

import pytest

from ovfuse.errors import UsageError
from tests.mount.conftest import Sealed
from tests.support.mounting import Home, mounted, refused_mount
from tests.support.users import NOBODY, STRANGER

pytestmark = pytest.mark.fuse

GROUP = grp.getgrnam("audio").gr_gid
"""A group that every Debian has, and nobody is in here."""


@pytest.fixture(autouse=True)
def _as_root() -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can become other accounts")


def reads(path: Path, uid: int, gid: int, *groups: int, drop: bool = False) -> bool:
    """Tell whether an account can read a file; else it must not be permitted to.

    Args:
        path: of the file.
        uid: of the account.
        gid: its group.
        groups: its other groups.
        drop: without any capability.
    """
    words = ["setpriv", f"--reuid={uid}", f"--regid={gid}"]
    words += (
        [f"--groups={','.join(map(str, groups))}"] if groups else ["--clear-groups"]
    )
    words += ["--bounding-set=-all", "--inh-caps=-all"] if drop else []
    done = subprocess.run(
        [*words, "cat", path], stdout=subprocess.DEVNULL, stderr=-1, check=False
    )
    assert done.returncode == 0 or b"Permission denied" in done.stderr
    return done.returncode == 0


@pytest.mark.parametrize("group", ["audio", f"{GROUP}"])
def test_members_of_the_group_read_and_others_do_not(
    publisher: Home, small: Sealed, mountpoint: Path, engine: str, group: str
) -> None:
    options = ("-o", f"allow_other,gid={group},umask=0027")
    file = mountpoint / "sub" / "labels.txt"
    with mounted(publisher, small.cipherdir, mountpoint, *options, engine=engine):
        assert file.stat().st_gid == GROUP
        assert file.stat().st_mode == 0o100440
        assert mountpoint.stat().st_mode == 0o40550
        assert reads(file, NOBODY, GROUP)
        assert reads(file, NOBODY, NOBODY, STRANGER, GROUP)
        assert reads(file, STRANGER, GROUP)
        assert not reads(file, NOBODY, NOBODY)
        assert not reads(file, STRANGER, STRANGER, NOBODY)
        assert reads(file, 0, 0)
        # Once more, when the kernel has all of it in its caches.
        assert not reads(file, NOBODY, NOBODY)


def test_owner_alone_reads(
    publisher: Home, small: Sealed, mountpoint: Path, engine: str
) -> None:
    options = ("-o", "allow_other,uid=daemon,gid=daemon,umask=0077")
    file = mountpoint / "model.xml"
    daemon = pwd.getpwnam("daemon")
    with mounted(publisher, small.cipherdir, mountpoint, *options, engine=engine):
        assert (file.stat().st_uid, file.stat().st_gid) == daemon[2:4]
        assert reads(file, daemon.pw_uid, NOBODY)
        assert not reads(file, NOBODY, daemon.pw_gid)
        assert reads(file, 0, 0)
        assert not reads(file, 0, 0, drop=True)  # an account as any other


def test_nobody_but_who_mounts_without_allow_other(
    publisher: Home, small: Sealed, mountpoint: Path, engine: str
) -> None:
    options = ("-o", f"uid={NOBODY},gid=audio")
    file = mountpoint / "model.xml"
    with mounted(publisher, small.cipherdir, mountpoint, *options, engine=engine):
        assert reads(file, 0, 0)
        assert not reads(file, NOBODY, GROUP)


def test_not_even_root_reads_the_mount_of_another(
    user: Home, small: Sealed, engine: str
) -> None:
    sealed, mountpoint = user.directory / "sealed", user.directory / "mnt"
    done = subprocess.run(
        [*user.program, "encrypt", small.plain, sealed],
        env=user.environment,
        user=user.uid,
        group=user.uid,
        extra_groups=[],
        check=False,
        capture_output=True,
    )
    assert done.returncode == 0, done.stderr
    with mounted(user, sealed, mountpoint, engine=engine):
        assert reads(mountpoint / "model.xml", NOBODY, NOBODY)
        assert not reads(mountpoint / "model.xml", 0, 0)


@pytest.mark.parametrize("option", ["uid=no one", "gid=no one", "gid=4294967295"])
def test_account_that_does_not_exist_is_refused(
    publisher: Home, small: Sealed, mountpoint: Path, engine: str, option: str
) -> None:
    words = ("-o", option)
    said = refused_mount(
        publisher, UsageError, small.cipherdir, mountpoint, *words, engine=engine
    )

    assert option.partition("=")[2] in said
