"""The usual tools on a mount that has one of everything."""

import os
import subprocess
from pathlib import Path

import pytest

from tests.mount.conftest import Sealed
from tests.mount.trees import BOUNDARY_SIZES, MANY, deep_directory
from tests.support.mounting import Mount

pytestmark = pytest.mark.fuse


@pytest.fixture
def plain(library: Sealed) -> Path:
    return library.plain


@pytest.fixture
def mountpoint(library_mount: Mount) -> Path:
    return library_mount.mountpoint


def run(*command: str | os.PathLike[str], cwd: Path) -> bytes:
    """Run a tool that must have nothing to complain about; return its output."""
    done = subprocess.run(
        command,
        cwd=cwd,
        env=os.environ | {"LC_ALL": "C.UTF-8"},
        capture_output=True,
        check=False,
        timeout=300,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    return done.stdout


def test_diff_finds_none(plain: Path, mountpoint: Path) -> None:
    assert run("diff", "-r", plain, mountpoint, cwd=plain) == b""


def test_ls_shows_the_same_tree(plain: Path, mountpoint: Path) -> None:
    assert run("ls", "-aR", cwd=mountpoint) == run("ls", "-aR", cwd=plain)

    long = run("ls", "-lR", cwd=mountpoint).splitlines()
    assert len(long) == len(run("ls", "-lR", cwd=plain).splitlines())
    assert sum(line.startswith(b"-r--r--r-- 1 ") for line in long) > MANY


@pytest.mark.parametrize(
    "test",
    [
        ("-type", "d"),
        ("-type", "f", "-size", "+15c"),
        ("-type", "f", "-size", "+16k"),
        ("-type", "f", "-size", "1"),
        ("-type", "f", "-empty"),
        ("-type", "d", "-empty"),
        ("-name", "caf*"),
        ("-path", "*/names/*"),
        ("-mindepth", "60"),
        ("-noleaf", "-type", "d"),
    ],
    ids=" ".join,
)
def test_find_finds_the_same(
    plain: Path, mountpoint: Path, test: tuple[str, ...]
) -> None:
    command = ("find", ".", *test, "-print0")

    there = set(run(*command, cwd=mountpoint).split(b"\0"))
    assert there == set(run(*command, cwd=plain).split(b"\0"))
    assert len(there) > 1


def test_find_compares_times(plain: Path, mountpoint: Path, tmp_path: Path) -> None:
    sealed_at = (mountpoint / "zeros").stat().st_mtime
    old, new = tmp_path / "old", tmp_path / "new"
    for path, offset in ((old, -1), (new, 1)):
        path.touch()
        os.utime(path, (sealed_at + offset,) * 2)
    everything = run("find", ".", cwd=mountpoint)

    assert run("find", ".", "-newer", old, cwd=mountpoint) == everything
    assert run("find", ".", "-newer", new, cwd=mountpoint) == b""


def test_cp_copies_all_with_times(
    plain: Path, mountpoint: Path, tmp_path: Path
) -> None:
    assert run("cp", "-a", mountpoint, tmp_path / "copy", cwd=tmp_path) == b""

    assert run("diff", "-r", plain, tmp_path / "copy", cwd=plain) == b""
    copied, served = (
        (base / "many" / "0001.txt").stat() for base in (tmp_path / "copy", mountpoint)
    )
    assert copied.st_mtime_ns == served.st_mtime_ns
    assert copied.st_mode == served.st_mode
    # pytest cannot remove what is in directories that nobody may write to
    run("chmod", "-R", "u+w", tmp_path / "copy", cwd=tmp_path)


def test_rsync_has_nothing_to_transfer(plain: Path, mountpoint: Path) -> None:
    command = ("rsync", "-a", "--checksum", "--dry-run", "--delete")
    for source, target in ((plain, mountpoint), (mountpoint, plain)):
        changes = run(
            *(*command, "--itemize-changes", f"{source}/", f"{target}/"), cwd=plain
        )

        # `.f..tp...`: only times and modes, not the content
        assert [line for line in changes.splitlines() if line[:1] != b"."] == []
        assert changes.count(b"\n.f") > MANY


def test_sha256sum_confirms_the_publishers_list(
    plain: Path, mountpoint: Path, tmp_path: Path
) -> None:
    sums = tmp_path / "sums"
    sums.write_bytes(
        run(*("find", ".", "-type", "f", "-exec", "sha256sum", "{}", "+"), cwd=plain)
    )

    command = ("sha256sum", "--check", "--strict", "--quiet", sums)
    assert run(*command, cwd=mountpoint) == b""
    assert len(sums.read_bytes().splitlines()) > MANY


def test_tar_archives_and_compares(
    plain: Path, mountpoint: Path, tmp_path: Path
) -> None:
    archive = tmp_path / "model.tar"
    run("tar", "-C", mountpoint, "-cf", archive, ".", cwd=tmp_path)
    run("tar", "-C", mountpoint, "--compare", "-f", archive, cwd=tmp_path)

    (tmp_path / "copy").mkdir()
    options = ("--no-same-permissions", "--mode=u+w", "-C", tmp_path / "copy")
    run("tar", *options, "-xf", archive, cwd=tmp_path)
    assert run("diff", "-r", plain, tmp_path / "copy", cwd=plain) == b""


def test_du_counts_every_byte(plain: Path, mountpoint: Path) -> None:
    sizes = [p.stat().st_size for p in plain.rglob("*") if p.is_file()]
    directories = sum(p.is_dir() for p in plain.rglob("*")) + 1

    apparent = run("du", "-sb", mountpoint, cwd=mountpoint).split()[0]
    assert int(apparent) == sum(sizes)
    blocks = run("du", "-s", "-B512", mountpoint, cwd=mountpoint).split()[0]
    assert int(blocks) == sum(-(-size // 512) for size in sizes)
    inodes = run("du", "-s", "--inodes", mountpoint, cwd=mountpoint).split()[0]
    assert int(inodes) == len(sizes) + directories


def test_df_tells_size_and_nothing_free(mountpoint: Path, plain: Path) -> None:
    fields = "source,fstype,itotal,iused,avail,pcent"
    _, line = run("df", f"--output={fields}", mountpoint, cwd=plain).splitlines()

    source, kind, files, used, available, percent = line.split()
    assert source.endswith(b"/library")
    assert kind == b"fuse.ovfuse"
    assert files == used
    assert int(files) > MANY
    assert (available, percent) == (b"0", b"100%")


@pytest.mark.parametrize("size", BOUNDARY_SIZES)
def test_cat_of_every_size(plain: Path, mountpoint: Path, size: int) -> None:
    path = Path("sizes", f"{size}")

    assert (mountpoint / path).stat().st_size == size
    assert run("cat", path, cwd=mountpoint) == (plain / path).read_bytes()


def test_shell_walks_to_the_bottom(mountpoint: Path) -> None:
    deep = deep_directory(mountpoint)
    assert run("cat", "bottom", cwd=deep) == b"deep\n"
    assert run("sh", "-c", "cd ../../.. && pwd -P", cwd=deep).strip() == (
        os.fsencode(deep.parents[2])
    )
