"""What is no regular file, or no directory, in the place of one: an error at once."""

import errno
import os
import shutil
import socket
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ovfuse.errors import CipherdirError, DamagedError, NoUsableKeyError, OvfuseError
from ovfuse.keys import Place, Unlocker
from ovfuse.sealed import beneath
from ovfuse.sealed.opening import SealedModel
from ovfuse.sealed.reader import ScratchPool
from ovfuse.sealed.wrapping import Identity
from tests.support.encryptor import Plain, SealedFiles, encrypt
from tests.support.sealed import (
    make_identity,
    make_unlocker,
    outcome,
    signers_of,
    write_sealed,
)

PLAIN = Plain(files={"a": b"abc"})
PLACES: dict[str, Callable[[SealedFiles], str]] = {
    "pointer": lambda made: "model.ovfuse",
    "seals": lambda made: "seals",
    "sealing": lambda made: f"seals/{made.seal_id}",
    "envelope": lambda made: made.envelope_path,
    "blocks": lambda made: made.path_of("blocks"),
    "objects": lambda made: made.path_of("objects"),
    "object": lambda made: made.object_path("a"),
    "keys": lambda made: made.path_of("keys"),
    "key file": lambda made: next(p for p in made.files if p.endswith(".age")),
}
DIRECTORIES = {"seals", "sealing", "objects", "keys"}


def link_inside(path: Path) -> None:
    moved = path.with_name("moved")
    path.rename(moved)
    path.symlink_to(moved.name)


def link_outside(path: Path) -> None:
    outside = path.parent / "outside"
    path.rename(outside)
    path.symlink_to(outside.resolve())


def link_to_nothing(path: Path) -> None:
    remove(path)
    path.symlink_to("nothing")


def link_to_itself(path: Path) -> None:
    remove(path)
    path.symlink_to(path.name)


def fifo(path: Path) -> None:
    remove(path)
    os.mkfifo(path)


def unix_socket(path: Path) -> None:
    remove(path)
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        with socket.socket(
            socket.AF_UNIX
        ) as server:  # 108 bytes are too few for a path
            server.bind(f"/proc/self/fd/{directory}/{path.name}")
    finally:
        os.close(directory)


def other_kind(path: Path) -> None:
    """A directory for a file, a file for a directory."""
    was_directory = path.is_dir()
    remove(path)
    if was_directory:
        path.write_bytes(b"")
    else:
        path.mkdir()


def device(kind: int, major: int, minor: int) -> Callable[[Path], None]:
    def make(path: Path) -> None:
        remove(path)
        try:
            os.mknod(path, kind | 0o600, os.makedev(major, minor))
        except PermissionError:
            pytest.skip("making a device needs CAP_MKNOD")

    return make


def remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()


KINDS: dict[str, Callable[[Path], None]] = {
    "link inside": link_inside,
    "link outside": link_outside,
    "link to nothing": link_to_nothing,
    "link to itself": link_to_itself,
    "FIFO": fifo,
    "socket": unix_socket,
    "other kind": other_kind,
    "zero": device(stat.S_IFCHR, 1, 5),
    "terminal": device(stat.S_IFCHR, 5, 0),
    "no driver": device(stat.S_IFCHR, 240, 77),
    "block device": device(stat.S_IFBLK, 240, 77),
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("kind", KINDS)
def test_something_else_in_the_place_of(
    tmp_path: Path, identity: Identity, place: str, kind: str
) -> None:
    made = encrypt(PLAIN, "special")
    write_sealed(made, tmp_path, identity)
    unlocker = make_unlocker([identity], signers_of(made))
    assert outcome(tmp_path, unlocker) == PLAIN.files

    KINDS[kind](tmp_path / PLACES[place](made))
    found = outcome(tmp_path, unlocker)
    assert isinstance(found, expected(place, kind)), repr(found)


def expected(place: str, kind: str) -> tuple[type[OvfuseError], ...]:
    if place == "key file":
        return (NoUsableKeyError,)
    # Where devices are not allowed (nodev), opening one is refused by the system.
    is_device = kind in {"zero", "terminal", "no driver", "block device"}
    return (DamagedError, CipherdirError) if is_device else (DamagedError,)


@pytest.fixture(scope="module")
def identity() -> Identity:
    return make_identity()


@pytest.mark.parametrize("kind", ["link outside", "FIFO", "other kind"])
def test_directory_on_the_way_to_a_model_in_a_tree(tmp_path: Path, kind: str) -> None:
    (tmp_path / "a/b").mkdir(parents=True)
    KINDS[kind](tmp_path / "a")
    with SealedModel.open(tmp_path) as tree, pytest.raises(DamagedError):
        SealedModel.at(tree.fd, "a/b")


def test_cipherdir_itself_may_be_a_link(tmp_path: Path, identity: Identity) -> None:
    made = encrypt(PLAIN, "special")
    write_sealed(made, tmp_path / "real", identity)
    (tmp_path / "link").symlink_to("real")

    unlocker = make_unlocker([identity], signers_of(made))
    assert outcome(tmp_path / "link", unlocker) == PLAIN.files


def test_seals_without_pointer_are_damage(tmp_path: Path, identity: Identity) -> None:
    made = encrypt(PLAIN, "special")
    write_sealed(made, tmp_path, identity)
    (tmp_path / "model.ovfuse").unlink()

    with SealedModel.open(tmp_path) as model:
        assert model.is_sealed()
        with pytest.raises(DamagedError, match="missing"):
            model.current()


@pytest.mark.parametrize(
    ("entries", "sealed"),
    [
        ([], False),
        (["other", "manifest.dsse.json"], False),
        (["model.ovfuse"], True),
        (["seals"], True),
    ],
    ids=["empty", "other", "pointer", "seals"],
)
def test_what_is_a_sealed_model(
    tmp_path: Path, entries: list[str], *, sealed: bool
) -> None:
    for name in entries:
        (tmp_path / name).symlink_to("nothing")

    with SealedModel.open(tmp_path) as model:
        assert model.is_sealed() == sealed


@pytest.mark.parametrize("kind", ["missing", "file"])
def test_cipherdir_that_is_none(tmp_path: Path, kind: str) -> None:
    if kind == "file":
        (tmp_path / "x").write_bytes(b"")
    with pytest.raises(CipherdirError, match=r"'.*/x': "):
        SealedModel.open(tmp_path / "x")


@contextmanager
def ordinary_user(directory: Path) -> Iterator[int]:
    """Be the owner of a directory and no longer root; yield its descriptor."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    was_root = os.geteuid() == 0
    if was_root:
        for path in (directory, *directory.rglob("*")):
            os.chown(path, 65534, 65534)
        os.seteuid(65534)
    try:
        yield fd
    finally:
        if was_root:
            os.seteuid(0)
        os.close(fd)


@pytest.mark.parametrize("place", PLACES)
def test_what_may_not_be_read(tmp_path: Path, identity: Identity, place: str) -> None:
    made = encrypt(PLAIN, "special")
    write_sealed(made, tmp_path, identity)
    forbidden = tmp_path / PLACES[place](made)
    mode = stat.S_IMODE(forbidden.stat().st_mode)
    forbidden.chmod(0)
    error = NoUsableKeyError if place == "key file" else CipherdirError

    with ordinary_user(tmp_path) as fd, pytest.raises(error):
        read_from(fd, make_unlocker([identity], signers_of(made)))
    forbidden.chmod(mode)


def read_from(directory_fd: int, unlocker: Unlocker) -> None:
    with SealedModel(os.dup(directory_fd)) as model:
        place = Place(Path("/here"), "")
        sealing = unlocker.unlock(model, ScratchPool(), place=place).sealing
    try:
        for entry in sealing.manifest.files:
            sealing.verify_file(entry, lambda _: None)
    finally:
        sealing.close()


def test_larger_than_allowed_is_not_read(tmp_path: Path) -> None:
    fd = os.open(tmp_path, os.O_RDONLY)
    (tmp_path / "x").write_bytes(b"")
    os.truncate(tmp_path / "x", 2**40)
    try:
        with pytest.raises(DamagedError, match="larger than 100 bytes"):
            beneath.read_small("x", fd, 100, "file")
        os.truncate(tmp_path / "x", 100)
        assert beneath.read_small("x", fd, 100, "file") == bytes(100)
    finally:
        os.close(fd)


def test_envelope_larger_than_its_cap(tmp_path: Path, identity: Identity) -> None:
    made = encrypt(PLAIN, "special")
    write_sealed(made, tmp_path, identity)
    os.truncate(tmp_path / made.envelope_path, 2**27 + 1)

    found = outcome(tmp_path, make_unlocker([identity], signers_of(made)))
    assert isinstance(found, DamagedError)
    assert "larger than" in found.message


def test_file_that_ends_early(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"abc")
    fd = os.open(tmp_path / "x", os.O_RDONLY)
    try:
        assert beneath.read_exactly(fd, 2, 1, "file") == b"bc"
        with pytest.raises(DamagedError, match="the file is truncated"):
            beneath.read_exactly(fd, 3, 1, "file")
    finally:
        os.close(fd)


def test_error_of_the_system(tmp_path: Path) -> None:
    fd = os.open(tmp_path, os.O_RDONLY)
    try:
        with pytest.raises(CipherdirError, match="the file cannot be read: Is a dir"):
            beneath.read_exactly(fd, 1, 0, "file")
        with pytest.raises(CipherdirError, match="Bad file descriptor"):
            beneath.open_regular("x", 2**20, "file")
    finally:
        os.close(fd)
    with pytest.raises(CipherdirError, match="Bad file descriptor"):
        SealedModel.at(2**20, "x")


def test_pointer_that_the_system_cannot_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> bytes:
        raise OSError(errno.EIO, "Input/output error")

    (tmp_path / "model.ovfuse").write_bytes(b"x")
    monkeypatch.setattr(os, "pread", fail)
    with (
        SealedModel.open(tmp_path) as model,
        pytest.raises(CipherdirError, match="cannot be read: Input/output error"),
    ):
        model.pointer()


def test_descriptors_are_closed_whatever_happens(
    tmp_path: Path, identity: Identity
) -> None:
    made = encrypt(PLAIN, "special")
    unlocker = make_unlocker([identity], signers_of(made))
    before = len(os.listdir("/proc/self/fd"))
    for place, path_of in PLACES.items():
        directory = write_sealed(made, tmp_path / place, identity)
        assert outcome(directory, unlocker) == PLAIN.files
        other_kind(directory / path_of(made))
        assert isinstance(outcome(directory, unlocker), OvfuseError)

    assert len(os.listdir("/proc/self/fd")) == before
