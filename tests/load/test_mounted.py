"""What a mount answers becomes ovfuse's own errors, one line each."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

import ovfuse
from ovfuse import mountinfo
from ovfuse.errors import (
    CipherdirError,
    DamagedError,
    NoUsableKeyError,
    OvfuseError,
    UntrustedError,
)
from ovfuse.load.mounted import MountedSource, is_on_mount
from tests.support.killing import kill_for_good
from tests.support.mounting import ENGINES, Home, Mount, mounted, succeed
from tests.support.sealed import make_identity, pattern, recipient_of, write_files

pytestmark = pytest.mark.fuse

FILES = {"sub/a.bin": pattern(10_000_000), "b.bin": b"b"}


@pytest.fixture(scope="module")
def tree(home: Home) -> Path:
    """Two models; the second one is sealed for somebody else."""
    root = home.directory / "mounted-tree"
    root.mkdir()
    source = write_files(home.directory / "mounted-plain", FILES)
    succeed(home, "encrypt", source, root / "own")
    other = recipient_of(make_identity()).canonical
    succeed(home, "encrypt", "-r", other, source, root / "other")
    return root


@pytest.fixture(params=ENGINES)
def mount(
    request: pytest.FixtureRequest, home: Home, tree: Path, tmp_path: Path
) -> Iterator[Mount]:
    with mounted(home, tree, tmp_path / "mnt", engine=request.param) as mount:
        yield mount


def check(error: OvfuseError) -> None:
    assert error.message.isprintable()
    assert error.hint


def test_a_model_of_a_tree_is_read(mount: Mount) -> None:
    assert is_on_mount(mount.mountpoint)
    with ovfuse.open_model(mount.mountpoint / "own") as model:
        assert model.facts is None
        assert model._source.derive_key(b"label") is None
        assert {path: model.read_bytes(path) for path in model.files} == FILES


def test_elsewhere_is_no_mount(tmp_path: Path) -> None:
    assert not is_on_mount(tmp_path)
    with pytest.raises(CipherdirError, match="nonesuch"):
        is_on_mount(tmp_path / "nonesuch")


def test_model_that_is_not_ours_is_refused(mount: Mount) -> None:
    with pytest.raises(NoUsableKeyError, match="mount refuses") as caught:
        ovfuse.open_model(mount.mountpoint / "other")
    check(caught.value)


def test_mount_of_another_account_is_not_believed(
    mount: Mount, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else whoever may mount over a cipherdir would decide what is in it."""
    lines = Path("/proc/self/mountinfo").read_text()
    owned = lines.replace(f"user_id={os.getuid()},", "user_id=4711,")
    assert owned != lines
    fake = mount.home.directory / "mountinfo"
    fake.write_text(owned)
    monkeypatch.setattr(mountinfo, "_MOUNTINFO", fake)

    with pytest.raises(UntrustedError, match="another account") as caught:
        ovfuse.open_model(mount.mountpoint)
    check(caught.value)


def test_source_that_looks_like_an_option_is_not_believed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who mounts chooses what the source is called, but not the options."""
    device = tmp_path.stat().st_dev
    fake = tmp_path / "mountinfo"
    fake.write_text(
        f"1 0 {os.major(device)}:{os.minor(device)} / /mnt ro - "
        "fuse.ovfuse a,user_id=0,b ro,user_id=4711,group_id=0\n"
    )
    monkeypatch.setattr(mountinfo, "_MOUNTINFO", fake)

    with pytest.raises(UntrustedError, match="another account"):
        is_on_mount(tmp_path)


def test_daemon_that_dies_is_an_error(mount: Mount) -> None:
    with ovfuse.open_model(mount.mountpoint / "own") as model:
        kill_for_good(mount.pid)
        with pytest.raises(CipherdirError, match="serves") as caught:
            model.read_bytes("sub/a.bin")
        check(caught.value)
    succeed(mount.home, "unmount", mount.mountpoint)
    mount.wait_for_end()


def test_damage_is_an_error_and_leaves_zeros(
    home: Home, tree: Path, mount: Mount
) -> None:
    (largest,) = (
        path
        for path in (tree / "own").glob("seals/*/objects/*")
        if path.stat().st_size > 1_000_000
    )
    before = largest.read_bytes()
    largest.write_bytes(before[:-1] + bytes([before[-1] ^ 1]))
    buffer = bytearray(b"x" * len(FILES["sub/a.bin"]))
    with ovfuse.open_model(mount.mountpoint / "own") as model:
        with pytest.raises(DamagedError, match="damaged or not trusted") as caught:
            model._source.read_into("sub/a.bin", memoryview(buffer))
        check(caught.value)
    largest.write_bytes(before)

    assert not any(buffer)


def test_file_of_another_sealing_is_noticed(tmp_path: Path) -> None:
    """As a mount that switches shows it; any directory can stand for one here."""
    write_files(tmp_path, {"a": b"one", "b": b"two", "c": b"three"})
    source = MountedSource(tmp_path)
    (tmp_path / "new").write_bytes(b"new")
    (tmp_path / "new").replace(tmp_path / "a")
    (tmp_path / "b").write_bytes(b"twofold")
    (tmp_path / "c").unlink()
    try:
        for path in ("a", "b"):
            with pytest.raises(CipherdirError, match="another sealing") as caught:
                source.open(path)
            check(caught.value)
        with pytest.raises(CipherdirError, match="No such file"):
            source.open("c")
    finally:
        source.close()
