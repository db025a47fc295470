"""`mount.fuse.ovfuse` as mount(8) calls it; tests/boot has mount(8) itself."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ovfuse import errors
from ovfuse.cli.mount_helper import EXIT_CODES, MOUNT_FAILED
from ovfuse.errors import OvfuseError
from tests.mount.conftest import Sealed
from tests.support.mounting import (
    Home,
    check_error_lines,
    daemons_of,
    is_mounted,
    mounts_at,
)
from tests.support.waiting import wait_until

pytestmark = [
    pytest.mark.fuse,
    pytest.mark.skipif(os.geteuid() != 0, reason="umount(8) is root's"),
]

HELPER = Path(sys.executable).with_name("mount.fuse.ovfuse")
CLI = Path(__file__).parents[2] / "docs" / "cli.md"
MOUNT_CODES = {0, 1, 2, 4, 8, 16, 32, 64}
"""What mount(8) says that it can end with."""


@pytest.fixture
def state(scratch: Path) -> Path:
    return scratch / "state"


def call(state: Path, *words: str | os.PathLike[str], cwd: Path = Path("/")) -> int:
    """Call it with as little environment as systemd gives it; check what it says."""
    done = subprocess.run(
        [HELPER, *words],
        env={"XDG_STATE_HOME": f"{state}"},
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == ""
    if done.returncode:
        check_error_lines(done.stderr)
    else:
        assert "error" not in done.stderr
    return done.returncode


def umount(mountpoint: Path) -> None:
    subprocess.run(["umount", mountpoint], check=True)
    wait_until(lambda: not daemons_of(mountpoint))


def keys_of(publisher: Home) -> str:
    return f"identity={publisher.identity},verify_key={publisher.public_key}"


def test_mounts_without_home_or_path_and_umount_ends_it(
    state: Path, small: Sealed, publisher: Home, mountpoint: Path
) -> None:
    words = "ro,nosuid,nodev,noatime,_netdev,user,noexec,exec,x-a.b=c"
    options = f"{words},{keys_of(publisher)},umask=0027,gid=root"

    assert call(state, small.cipherdir, mountpoint, "-n", "-o", options) == 0

    try:
        for path in small.plain.rglob("*"):
            if path.is_file():
                shown = mountpoint / path.relative_to(small.plain)
                assert shown.read_bytes() == path.read_bytes()
                assert shown.stat().st_mode & 0o777 == 0o440
    finally:
        umount(mountpoint)
    assert not is_mounted(mountpoint)


def test_relative_places_and_options_in_front(
    state: Path, small: Sealed, publisher: Home, mountpoint: Path
) -> None:
    words = ("-v", "-o", f"rw,{keys_of(publisher)}", "-t", "fuse.ovfuse")
    source = os.path.relpath(small.cipherdir, mountpoint.parent)

    code = call(state, *words, source, mountpoint.name, cwd=mountpoint.parent)

    assert code == 0
    umount(mountpoint)


@pytest.mark.parametrize("flags", [[], ["-s"]], ids=["strict", "sloppy"])
def test_unknown_options_are_left_out_if_that_is_wanted(
    state: Path, small: Sealed, publisher: Home, mountpoint: Path, flags: list[str]
) -> None:
    options = ("-o", f"nonesuch,{keys_of(publisher)}")

    code = call(state, small.cipherdir, mountpoint, *flags, *options)

    assert code == (0 if flags else 1)
    assert is_mounted(mountpoint) == bool(flags)
    if flags:
        umount(mountpoint)


def test_pretending_mounts_nothing(
    state: Path, small: Sealed, mountpoint: Path
) -> None:
    assert call(state, small.cipherdir, mountpoint, "-f") == 0

    assert not is_mounted(mountpoint)


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["/one"],
        ["/one", "/two", "/three"],
        ["/one", "/two", "-z"],
        ["/one", "/two", "-N", "/proc/1/ns/mnt"],
        ["/one", "/two", "-o"],
        ["/one", "/two", "-o", "remount,ro"],
        ["/one", "/two", "-o", "identity="],
        ["/one", "/two", "-o", "verify_key"],
        ["/one", "/two", "-o", "gid=nobody-at-all"],
        ["/one", "/two", "-o", "a\\"],
    ],
    ids=" ".join,
)
def test_wrong_calls(state: Path, words: list[str]) -> None:
    assert call(state, *words) == 1


def failures(scratch: Path, small: Sealed, publisher: Home) -> Iterator[list[str]]:
    keys = keys_of(publisher)
    empty = scratch / "empty"
    empty.mkdir()
    yield [f"{empty}", keys]
    yield [f"{scratch / 'nowhere'}", keys]
    yield [f"{small.cipherdir}", f"verify_key={publisher.public_key}"]
    yield [f"{small.cipherdir}", f"identity={publisher.identity}"]
    yield [f"{small.cipherdir}", f"{keys},model=another"]


def test_failed_mounts(
    state: Path, scratch: Path, small: Sealed, publisher: Home, mountpoint: Path
) -> None:
    for source, options in failures(scratch, small, publisher):
        assert call(state, source, mountpoint, "-o", options) == MOUNT_FAILED, options
        assert mounts_at(mountpoint) == []
        assert daemons_of(mountpoint) == []


def exit_codes() -> set[int]:
    """All that a command of ovfuse can end with."""
    classes = [getattr(errors, name) for name in errors.__all__ if name[0].isupper()]
    found = {kind.exit_code for kind in classes if issubclass(kind, OvfuseError)}
    return {0, *EXIT_CODES, *found}


def test_exit_codes_are_those_of_mount_and_of_the_document() -> None:
    text = CLI.read_text("utf-8")
    rows = re.findall(
        r"^\| (\d+) \| (\d+|every other.*?) \| .* \|$", text, re.MULTILINE
    )
    documented = {int(ours): int(code) for code, ours in rows if ours.isdigit()}
    [others] = [int(code) for code, ours in rows if not ours.isdigit()]

    assert documented == EXIT_CODES
    assert others == MOUNT_FAILED
    for code in exit_codes():
        assert EXIT_CODES.get(code, MOUNT_FAILED) in MOUNT_CODES
    assert [code for code in exit_codes() if EXIT_CODES.get(code) == 0] == [0]
