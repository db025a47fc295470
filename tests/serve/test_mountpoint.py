"""Where nothing may be mounted, and what is said about it."""

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from ovfuse.errors import MountFailedError, MountpointError
from ovfuse.serve import mountpoint as checks
from ovfuse.serve.mountpoint import check_fuse, check_mountpoint
from tests.serve.mounter import NOBODY, ROOT, Mounter


@pytest.fixture
def cipherdir(tmp_path: Path) -> Path:
    directory = tmp_path / "cipherdir"
    directory.mkdir()
    return directory


def refused(mountpoint: Path, cipherdir: Path) -> MountpointError:
    with pytest.raises(MountpointError) as caught:
        check_mountpoint(mountpoint, cipherdir)
    assert caught.value.message.isprintable()
    return caught.value


def test_empty_directory_is_fine(mountpoint: Path, cipherdir: Path) -> None:
    assert check_mountpoint(mountpoint, cipherdir) == mountpoint.resolve()


def test_link_to_an_empty_directory_is_resolved(
    tmp_path: Path, mountpoint: Path, cipherdir: Path
) -> None:
    (tmp_path / "link").symlink_to(mountpoint)

    assert check_mountpoint(tmp_path / "link", cipherdir) == mountpoint.resolve()


def test_missing(tmp_path: Path, cipherdir: Path) -> None:
    error = refused(tmp_path / "none", cipherdir)

    assert "does not exist" in error.message
    assert error.hint == f"mkdir {tmp_path}/none"


def test_file(tmp_path: Path, cipherdir: Path) -> None:
    (tmp_path / "file").touch()

    assert "not a directory" in refused(tmp_path / "file", cipherdir).message


def test_not_empty(mountpoint: Path, cipherdir: Path) -> None:
    (mountpoint / ".hidden").touch()

    assert "not empty" in refused(mountpoint, cipherdir).message


def test_mountpoint_of_another_filesystem(cipherdir: Path) -> None:
    assert "a mountpoint already" in refused(Path("/proc"), cipherdir).message


@pytest.mark.parametrize("place", [".", "seals/x"])
def test_inside_the_cipherdir(cipherdir: Path, place: str) -> None:
    (cipherdir / place).mkdir(parents=True, exist_ok=True)

    assert "inside the cipherdir" in refused(cipherdir / place, cipherdir).message


def test_inside_the_cipherdir_by_a_link(tmp_path: Path, cipherdir: Path) -> None:
    (cipherdir / "inner").mkdir()
    (tmp_path / "link").symlink_to(cipherdir)

    assert "inside" in refused(tmp_path / "link" / "inner", cipherdir).message
    assert "inside" in refused(cipherdir / "inner", tmp_path / "link").message


def test_cipherdir_inside_the_mountpoint(tmp_path: Path, cipherdir: Path) -> None:
    assert "would hide" in refused(tmp_path, cipherdir).message


@pytest.mark.fuse
def test_mounted_already(mounter: Mounter, cipherdir: Path) -> None:
    mounter.mount()

    error = refused(mounter.mountpoint, cipherdir)

    assert "'fuse.ovfuse'" in error.message


def _give_away_read_only(path: Path) -> None:
    os.chown(path, NOBODY, NOBODY)
    path.chmod(0o500)


_CHECK = (
    "import pathlib, sys; from ovfuse.serve.mountpoint import *;"
    "check_mountpoint(pathlib.Path(sys.argv[1]), pathlib.Path('/usr'))"
)


@pytest.mark.parametrize(
    ("prepare", "good"),
    [
        (lambda path: os.chown(path, NOBODY, NOBODY), True),
        (lambda path: path.chmod(0o777), True),
        (lambda path: path.chmod(0o1777), False),
        (lambda path: path.chmod(0o755), False),
        (_give_away_read_only, False),
    ],
    ids=["own", "writable", "sticky of another", "read-only", "own, read-only"],
)
def test_ordinary_user_needs_a_directory_of_his_own(
    open_path: Path,
    users_python: str,
    users_environment: dict[str, str],
    prepare: Callable[[Path], object],
    good: bool,
) -> None:
    prepare(open_path)

    done = subprocess.run(
        [
            users_python,
            "-c",
            _CHECK,
            open_path,
        ],
        env=users_environment,
        cwd=ROOT,
        user=NOBODY,
        group=NOBODY,
        extra_groups=[],
        capture_output=True,
        text=True,
        check=False,
    )

    assert (done.returncode == 0) is good
    assert good or "an ordinary user may not mount" in done.stderr


def test_machine_without_fuse(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "_DEVICE", tmp_path / "fuse")

    with pytest.raises(MountFailedError, match="there is no"):
        check_fuse(allow_other=False)


@pytest.mark.parametrize(
    ("conf", "good"),
    [
        ("# user_allow_other\n", False),
        ("#user_allow_other", False),
        ("mount_max = 10\n user_allow_other \n", True),
        (None, False),
    ],
)
def test_allow_other_of_an_ordinary_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, conf: str | None, good: bool
) -> None:
    file = tmp_path / "fuse.conf"
    if conf is not None:
        file.write_text(conf)
    monkeypatch.setattr(checks, "_FUSE_CONF", file)
    monkeypatch.setattr(checks, "_DEVICE", Path("/dev/null"))
    monkeypatch.setattr(os, "geteuid", lambda: NOBODY)

    if good:
        check_fuse(allow_other=True)
    else:
        with pytest.raises(MountFailedError) as caught:
            check_fuse(allow_other=True)
        assert "user_allow_other" in caught.value.hint
    check_fuse(allow_other=False)
