"""Plaintext back to disk: all of it and nothing else, or nothing at all."""

import os
import shutil
import signal
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from ovfuse.errors import (
    CipherdirError,
    DamagedError,
    NoUsableKeyError,
    OutputError,
    UntrustedError,
)
from ovfuse.sealed.opening import SealedModel
from ovfuse.sealed.unseal import Output
from tests.cli.conftest import inspected, seal_directory, snapshot
from tests.support.mounting import Home, refused, run_ovfuse, start_ovfuse, succeed
from tests.support.sealed import Publisher, opened, write_files
from tests.support.waiting import wait_until


@pytest.fixture
def sealed(home: Home, plain: Path, scratch: Path) -> Path:
    (plain / "empty" / "in").mkdir(parents=True)
    (plain / "nothing").touch()
    succeed(home, "encrypt", plain, scratch / "sealed")
    return scratch / "sealed"


@pytest.fixture
def tree(home: Home, plain: Path, scratch: Path) -> Path:
    """Three models; the last one is `z`."""
    (scratch / "tree" / "sub").mkdir(parents=True)
    for name in ("a", "sub/b", "z"):
        succeed(home, "encrypt", plain, scratch / "tree" / name)
    return scratch / "tree"


def damage(cipherdir: Path) -> None:
    """Flip the last byte of the largest object."""
    objects = (seal_directory(cipherdir) / "objects").iterdir()
    path = max(objects, key=lambda path: path.stat().st_size)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("umask", [0, 0o077])
def test_all_is_written_for_its_owner_with_the_sealing_time(
    home: Home, plain: Path, sealed: Path, scratch: Path, umask: int
) -> None:
    out = scratch / "out"
    done = subprocess.run(
        [*home.program, "decrypt", sealed, out],
        env=home.environment,
        capture_output=True,
        text=True,
        umask=umask,
        check=True,
    )

    assert "plaintext to disk" in done.stderr
    assert done.stdout.startswith("decrypted 'sealed' version 1: 4 files")
    assert snapshot(out) == snapshot(plain)
    assert stat.S_IMODE(out.stat().st_mode) == 0o700
    for path in out.rglob("*"):
        status = path.stat()
        assert stat.S_IMODE(status.st_mode) == (0o700 if path.is_dir() else 0o600)
        assert status.st_mtime == inspected(home, sealed)["sealed_at"]


def test_tree_keeps_its_places(
    home: Home, plain: Path, tree: Path, scratch: Path
) -> None:
    (scratch / "out").mkdir(mode=0o755)
    printed = succeed(home, "decrypt", tree, scratch / "out")

    assert len(printed.splitlines()) == 3
    for name in ("a", "sub/b", "z"):
        assert snapshot(scratch / "out" / name) == snapshot(plain)
        sealed_at = inspected(home, tree / name)["sealed_at"]
        assert (scratch / "out" / name).stat().st_mtime == sealed_at


@pytest.mark.parametrize("made", [False, True])
def test_damage_leaves_nothing(
    home: Home, sealed: Path, scratch: Path, made: bool
) -> None:
    damage(sealed)
    if made:
        (scratch / "out").mkdir()

    refused(home, DamagedError, "decrypt", sealed, scratch / "out")
    assert (scratch / "out").exists() == made
    assert not made or not any((scratch / "out").iterdir())


def test_damage_of_a_later_model_leaves_nothing(
    home: Home, tree: Path, scratch: Path
) -> None:
    damage(tree / "z")

    refused(home, DamagedError, "decrypt", tree, scratch / "out")
    assert not (scratch / "out").exists()


def test_model_that_does_not_open_leaves_nothing(
    home: Home, tree: Path, scratch: Path
) -> None:
    shutil.move(tree / "z", tree / "y")
    refused(home, UntrustedError, "decrypt", tree, scratch / "out")
    stranger = Home(directory=scratch / "stranger")
    allow = "--allow-untrusted"
    refused(stranger, NoUsableKeyError, "decrypt", allow, tree, scratch / "out")

    assert not (scratch / "out").exists()


def test_directories_that_will_not_do(home: Home, sealed: Path, scratch: Path) -> None:
    (scratch / "full").mkdir()
    (scratch / "full" / "file").write_text("mine")
    (scratch / "file").write_text("mine")
    (scratch / "link").symlink_to(scratch / "full")
    (scratch / "into").symlink_to(sealed)
    for out in ("full", "file", "link", "a/b", "sealed", "sealed/out", "into/out"):
        refused(home, OutputError, "decrypt", sealed, scratch / out)

    assert (scratch / "full" / "file").read_text() == "mine"
    assert not (sealed / "out").exists()
    refused(home, CipherdirError, "decrypt", scratch / "full", scratch / "out")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signal_leaves_nothing(
    home: Home, scratch: Path, number: signal.Signals
) -> None:
    (scratch / "plain").mkdir()
    (scratch / "plain" / "a").write_bytes(b"a")
    with (scratch / "plain" / "huge").open("wb") as file:
        file.truncate(1 << 30)
    succeed(home, "encrypt", scratch / "plain", scratch / "sealed")
    # Under nohup, or in a shell's background, it is ignored, and stays so in a child.
    before = signal.signal(number, signal.SIG_DFL)
    try:
        process = start_ovfuse(home, "decrypt", scratch / "sealed", scratch / "out")
    finally:
        signal.signal(number, before)
    with process:
        wait_until((scratch / "out" / "huge").exists)
        process.send_signal(number)
        process.communicate()

    assert process.returncode == 130
    assert not (scratch / "out").exists()


# Races, in this process


@pytest.fixture
def publisher() -> Publisher:
    return Publisher.make()


@pytest.fixture
def cipherdir(publisher: Publisher, tmp_path: Path) -> Path:
    source = write_files(tmp_path / "source")
    publisher.seal(source, tmp_path / "model")
    return tmp_path / "model"


def write(publisher: Publisher, cipherdir: Path, out: Path) -> Iterator[Output]:
    with Output.open(out) as output, opened(cipherdir, publisher.identity) as sealing:
        yield output
        output.write(sealing, "", lambda _: None)


def test_directory_that_is_replaced_by_a_link_does_not_matter(
    publisher: Publisher, cipherdir: Path, tmp_path: Path
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for _ in write(publisher, cipherdir, tmp_path / "out"):
        (tmp_path / "out").rename(tmp_path / "moved")
        (tmp_path / "out").symlink_to(elsewhere)

    assert list(elsewhere.iterdir()) == []
    assert (tmp_path / "moved" / "model.xml").exists()


@pytest.mark.parametrize("name", ["sub", "model.xml", "model.bin"])
@pytest.mark.parametrize("kind", ["link", "directory", "file"])
def test_what_others_put_there_is_not_used_and_stays(
    publisher: Publisher, cipherdir: Path, tmp_path: Path, name: str, kind: str
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    intruder = tmp_path / "out" / name
    steps = write(publisher, cipherdir, tmp_path / "out")
    next(steps)
    if kind == "link":
        intruder.symlink_to(elsewhere)
    elif kind == "directory":
        intruder.mkdir()
    else:
        intruder.write_text("mine")
    with pytest.raises(OutputError, match="File exists"):
        next(steps)

    assert list(elsewhere.iterdir()) == []
    assert os.listdir(tmp_path / "out") == [name]


def test_after_an_error_another_directory_of_that_name_stays(tmp_path: Path) -> None:
    opening = Output.open(tmp_path / "out")
    opening.__enter__()
    (tmp_path / "out").rename(tmp_path / "moved")
    (tmp_path / "out").mkdir()
    error = OutputError("no room")
    assert not opening.__exit__(OutputError, error, None)

    assert (tmp_path / "out").is_dir()


def test_files_that_are_open_are_closed_after_damage(
    publisher: Publisher, cipherdir: Path, tmp_path: Path
) -> None:
    before = len(os.listdir("/proc/self/fd"))
    with SealedModel.open(cipherdir) as model:
        assert model.is_sealed()
    damage(cipherdir)
    with pytest.raises(DamagedError):
        list(write(publisher, cipherdir, tmp_path / "out"))

    assert len(os.listdir("/proc/self/fd")) == before


def test_full_disk_is_an_error(home: Home, sealed: Path, scratch: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can mount a tmpfs")
    small = scratch / "small"
    small.mkdir()
    options = ["-t", "tmpfs", "-o", "size=64k", "none"]
    subprocess.run(["mount", *options, small], check=True)
    try:
        done = run_ovfuse(home, "decrypt", sealed, small / "out")

        assert done.returncode == OutputError.exit_code
        assert "No space left" in done.stderr
        assert list(small.iterdir()) == []
    finally:
        subprocess.run(["umount", small], check=True)
