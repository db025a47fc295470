"""Reading the kernel's list of mounts."""

import os
from pathlib import Path

import pytest

from ovfuse import mountinfo
from ovfuse.mountinfo import Mount, list_mounts
from ovfuse.serve import mounts
from ovfuse.serve.mounts import find_mount, resolve_mountpoint

LINES = b"""\
22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/root rw
43 22 0:39 / /mnt/a\\040b\\011\\012\\134 ro shared:2 master:1 \
- fuse.ovfuse /s\\054x ro,user_id=1000,group_id=7
44 22 0:40 / /mnt/\xff ro - fuse.ovfuse \\040 ro,user_id=0,group_id=0,allow_other
45 43 0:41 / /mnt/a\\040b\\011\\012\\134 rw - tmpfs - rw
46 22 1048:4097 / /big rw - xfs /dev/x rw
"""


@pytest.fixture
def five(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Mount]:
    table = tmp_path / "mountinfo"
    table.write_bytes(LINES)
    monkeypatch.setattr(mountinfo, "_MOUNTINFO", table)
    return list_mounts()


def test_fields_and_escapes(five: list[Mount]) -> None:
    assert five[1] == Mount(
        mountpoint=Path("/mnt/a b\t\n\\"),
        filesystem_type="fuse.ovfuse",
        source="/s,x",
        device=os.makedev(0, 39),
        user_id=1000,
    )
    assert five[0].user_id is None
    assert os.fsencode(five[2].mountpoint) == b"/mnt/\xff"
    assert five[4].device == os.makedev(1048, 4097)


def test_only_ours_are_ours(five: list[Mount]) -> None:
    assert mounts.ovfuse_mounts() == [five[1], five[2]]


def test_topmost_of_stacked_mounts_is_found(five: list[Mount]) -> None:
    assert find_mount(Path("/mnt/a b\t\n\\")) == five[3]
    assert find_mount(Path("/mnt")) is None


def test_real_table_has_the_root() -> None:
    found = find_mount(Path("/"))

    assert found is not None
    assert found.device == Path("/").stat().st_dev


def test_served_directory_is_not_stale() -> None:
    assert mounts.is_stale(Path("/")) is False


def test_links_in_the_parent_are_resolved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "real" / "mnt").mkdir(parents=True)
    (tmp_path / "link").symlink_to("real")
    monkeypatch.chdir(tmp_path)

    expected = tmp_path.resolve() / "real" / "mnt"

    assert resolve_mountpoint(tmp_path / "link" / "mnt") == expected
    assert resolve_mountpoint(Path("link/mnt/")) == expected
    assert resolve_mountpoint(Path("link/mnt/../mnt/.")) == expected
    monkeypatch.chdir(expected)
    assert resolve_mountpoint(Path()) == expected
