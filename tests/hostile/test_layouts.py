"""Hostile layouts, and what `inspect`, `verify` and a mount take to refuse them.

All cases stand in one tree, so that one command meets them all: each is a named error
or served rightly, within five seconds of the processor, 100 MB, and without a prompt.
"""

import errno
import json
import os
import shutil
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from ovfuse.errors import CipherdirError, NewerFormatError
from ovfuse.sealed.opening import SealedModel
from ovfuse.view import scan
from tests.hostile.measured import check_shown, peak_of, run_measured
from tests.hostile.published import (
    NAME,
    NEW_FILES,
    PARTS,
    PLACES,
    Published,
    make_published,
    write,
)
from tests.sealed.test_special_files import KINDS
from tests.support.encryptor import SealedFiles
from tests.support.mounting import ENGINES, Home, mounted

pytestmark = pytest.mark.slow

SPARSE_SIZE = 10 * 1024**3
MANY = 200_000
DIRECTORIES = 2_000
FIRST = "a-good"
DEVICES = {"zero", "terminal", "no driver", "block device"}


@pytest.fixture(scope="module")
def published(home: Home) -> Published:
    return make_published().for_recipient(home.recipient)


def kinds() -> Iterator[str]:
    """What an account may put somewhere: only root makes devices."""
    for kind in KINDS:
        if os.geteuid() == 0 or kind not in DEVICES:
            yield kind


@dataclass(frozen=True)
class Tree:
    """Copies of a model, each damaged; `bad` says what the errors are."""

    top: Path
    bad: dict[str, str]
    good: tuple[str, ...] = (FIRST,)


def make_tree(
    top: Path, published: Published, damages: dict[str, Callable[[Path], object]]
) -> Tree:
    write(published.new.files, top / FIRST / NAME)
    bad = {}
    for number, (name, damage) in enumerate(damages.items()):
        place = f"case{number:03}"
        damage(write(published.new.files, top / place / NAME))
        bad[place] = name
    return Tree(top, bad)


def special(place: str, kind: str, made: SealedFiles) -> Callable[[Path], object]:
    return lambda directory: KINDS[kind](directory / PLACES[place](made))


def sparse(place: str, made: SealedFiles) -> Callable[[Path], object]:
    return lambda directory: os.truncate(directory / PLACES[place](made), SPARSE_SIZE)


@pytest.fixture(scope="module")
def tree(shared: Path, published: Published) -> Iterator[Tree]:
    """Every kind of thing in every place, and every file of 10 GB."""
    made = published.new
    damages = {
        f"{place}: {kind}": special(place, kind, made)
        for place in PLACES
        for kind in kinds()
    }
    damages |= {f"{place}: 10 GB": sparse(place, made) for place in (*PARTS, "pointer")}
    top = shared / "layouts"
    yield make_tree(top, published, damages)
    shutil.rmtree(top)


def reports(said: str) -> dict[str, dict[str, Any]]:
    """Return what a command says about each model, by its first component."""
    return {model["path"].split("/")[0]: model for model in json.loads(said)["models"]}


# Not looked at without a key, or looked at but not judged.
NOT_INSPECTED = ("blocks", "object a", "object b", "objects", "key file")


def test_inspect(home: Home, tree: Tree) -> None:
    done = run_measured(home, "inspect", "--json", tree.top)
    done.check_modest()
    found = reports(done.stdout)

    assert done.status > 0
    assert found[FIRST]["error"] == ""
    assert found.keys() == {*tree.good, *tree.bad}
    for place, case in tree.bad.items():
        judged = not case.startswith(NOT_INSPECTED)
        assert bool(found[place]["error"]) == judged, case


def test_verify(home: Home, tree: Tree) -> None:
    done = run_measured(home, "verify", "--json", tree.top)
    done.check_modest()
    found = reports(done.stdout)

    assert done.status > 0
    assert found[FIRST]["error"] == ""
    assert all(file["ok"] for file in found[FIRST]["files"])
    assert found.keys() == {*tree.good, *tree.bad}
    for place, case in tree.bad.items():
        errors = [found[place]["error"], *(f["error"] for f in found[place]["files"])]
        assert any(errors), case


def read(path: Path) -> tuple[int, bytes]:
    """Return the errno, or 0 and the content."""
    try:
        return 0, path.read_bytes()
    except OSError as error:
        return error.errno or -1, b""


@pytest.mark.fuse
@pytest.mark.parametrize("engine", ENGINES)
def test_mount(home: Home, tree: Tree, scratch: Path, engine: str) -> None:
    mountpoint = scratch / "mnt"
    with mounted(home, tree.top, mountpoint, engine=engine) as mount:
        for place, case in tree.bad.items():
            failures = 0
            for path, data in NEW_FILES.items():
                code, found = read(mountpoint / place / NAME / path)
                assert code in {0, errno.EIO, errno.EACCES}, case
                assert found in {b"", data}, case
                failures += code != 0
            assert failures, case
        for path, data in NEW_FILES.items():
            assert (mountpoint / FIRST / NAME / path).read_bytes() == data
        assert peak_of(mount.pid) < 100 * 1024


@pytest.mark.parametrize("place", [*PARTS, "pointer"])
def test_sparse_file(
    home: Home, scratch: Path, published: Published, place: str
) -> None:
    """Alone, so that nothing else hides what it costs."""
    directory = write(published.new.files, scratch / NAME)
    os.truncate(directory / PLACES[place](published.new), SPARSE_SIZE)
    done = run_measured(home, "verify", directory)
    done.check_modest()

    assert done.status in {13, 15}, done.stderr


# Many entries


@pytest.fixture(scope="module")
def many(shared: Path) -> Iterator[Path]:
    """A directory with very many entries, moved to where a test wants it."""
    directory = shared / "many"
    directory.mkdir()
    fd = os.open(directory, os.O_RDONLY)
    for number in range(MANY):
        os.mknod(f"{number:032x}.age", stat.S_IFREG | 0o600, dir_fd=fd)
    os.close(fd)
    yield directory
    shutil.rmtree(directory)


@pytest.fixture
def borrowed(many: Path, scratch: Path) -> Iterator[Callable[[Path], None]]:
    """Moves the entries of a directory into the large one, and that to its place."""
    taken: list[tuple[Path, list[str]]] = []

    def put(place: Path) -> None:
        names = os.listdir(place) if place.exists() else []
        for name in names:
            (place / name).rename(many / name)
        if place.exists():
            place.rmdir()
        many.rename(place)
        taken.append((place, names))

    yield put
    for place, names in taken:
        for name in names:
            path = place / name
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        place.rename(many)


@pytest.mark.parametrize("place", ["keys", "seals", "objects", "tree"])
def test_million_entries(
    home: Home,
    scratch: Path,
    published: Published,
    borrowed: Callable[[Path], None],
    place: str,
) -> None:
    directory = write(published.new.files, scratch / "top" / NAME)
    where = scratch / "top" if place == "tree" else directory
    if place == "tree":
        borrowed(where)
    else:
        borrowed(directory / PLACES[place](published.new))
    for command in ("inspect", "verify"):
        done = run_measured(home, command, where)
        done.check_modest()
        assert done.status == (13 if place == "keys" else 0), done.stderr


@pytest.mark.fuse
@pytest.mark.parametrize("place", ["seals", "objects", "tree"])
def test_million_entries_behind_a_mount(
    home: Home,
    scratch: Path,
    published: Published,
    borrowed: Callable[[Path], None],
    place: str,
) -> None:
    directory = write(published.new.files, scratch / "top" / NAME)
    where = scratch / "top"
    borrowed(where if place == "tree" else directory / PLACES[place](published.new))
    with mounted(home, where, scratch / "mnt", engine=ENGINES[0]) as mount:
        assert os.listdir(mount.mountpoint) == [NAME]
        for path, data in NEW_FILES.items():
            assert (mount.mountpoint / NAME / path).read_bytes() == data
        assert peak_of(mount.pid) < 100 * 1024


@pytest.mark.parametrize("command", ["inspect", "verify"])
def test_tree_of_many_directories(
    home: Home, scratch: Path, published: Published, command: str
) -> None:
    for number in range(DIRECTORIES):
        (scratch / "top" / f"{number:05}").mkdir(parents=True)
    write(published.new.files, scratch / "top" / NAME)
    done = run_measured(home, command, scratch / "top")
    done.check_modest()

    assert done.status == 0


@pytest.mark.parametrize("command", ["inspect", "verify"])
def test_tree_that_is_very_deep(
    home: Home, scratch: Path, published: Published, command: str
) -> None:
    """Deeper than a model can be, and than one that is looked into for ever."""
    write(published.new.files, scratch / "top" / NAME)
    fd = os.open(scratch / "top", os.O_RDONLY)
    for _ in range(300):
        os.mkdir("d", dir_fd=fd)
        inner = os.open("d", os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = inner
    os.close(fd)
    done = run_measured(home, command, scratch / "top")
    done.check_modest()

    assert done.status == 0
    assert "skipped a directory that no model can be in" in done.stderr


def test_tree_of_too_many_models(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scan, "_MODELS_MAX", 3)
    for number in range(3):
        (tmp_path / f"{number}" / "seals").mkdir(parents=True)
    with SealedModel.open(tmp_path) as directory:
        assert len(scan.find_models(directory.fd)) == 3
        (tmp_path / "3" / "seals").mkdir(parents=True)
        with pytest.raises(CipherdirError, match="more than 3 sealed models"):
            scan.find_models(directory.fd)


def test_pointer_is_read_no_further_than_its_cap(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "model.ovfuse").write_bytes(b"ovfuse 2 ".ljust(1_000_000, b"x"))
    asked = []
    pread = os.pread

    def count(fd: int, size: int, offset: int) -> bytes:
        asked.append(size + offset)
        return pread(fd, size, offset)

    monkeypatch.setattr(os, "pread", count)
    with SealedModel.open(tmp_path) as model, pytest.raises(NewerFormatError):
        model.pointer()
    assert max(asked) <= 128


@pytest.mark.parametrize("kind", ["link inside", "link outside", "FIFO", "socket"])
def test_something_else_in_a_tree_is_no_model(
    tmp_path: Path, published: Published, kind: str
) -> None:
    write(published.new.files, tmp_path / "top" / NAME)
    write(published.new.files, tmp_path / "top" / "x" / NAME)
    KINDS[kind](tmp_path / "top" / "x")
    if kind == "link inside":
        shutil.rmtree(tmp_path / "top" / "moved")
        (tmp_path / "top" / "x").unlink()
        (tmp_path / "top" / "x").symlink_to(tmp_path / "top" / NAME)
    shutil.rmtree(tmp_path / "top" / "outside", ignore_errors=True)
    if kind == "link outside":
        write(published.new.files, tmp_path / "elsewhere")
        (tmp_path / "top" / "x").unlink()
        (tmp_path / "top" / "x").symlink_to(tmp_path / "elsewhere")
    with SealedModel.open(tmp_path / "top") as directory:
        found = [place for place, _ in scan.find_models(directory.fd)]

    assert found == [NAME]


@pytest.mark.parametrize("command", ["inspect", "verify", "mount"])
@pytest.mark.parametrize("case", ["keys", "recipients"])
def test_1024_key_files(
    home: Home, scratch: Path, published: Published, command: str, case: str
) -> None:
    """None fits: of others, or eight recipients in each."""
    made = published.new
    directory = write(made.files, scratch / NAME)
    keys = directory / made.path_of("keys")
    data = next(keys.iterdir()).read_bytes()
    shutil.rmtree(keys)
    keys.mkdir()
    head, mac = data.split(b"\n--- ", 1)
    intro, stanza = head.split(b"\n-> ", 1)
    stanza = stanza.split(b"\n-> ", 1)[0]
    count = 8 if case == "recipients" else 1
    stanza = stanza.replace(stanza.split(b" ")[1][:6], b"AAAAAA")
    changed = intro + (b"\n-> " + stanza) * count + b"\n--- " + mac
    for number in range(1024):
        (keys / f"{number:032x}.age").write_bytes(changed)
    (scratch / "mnt").mkdir()
    arguments = (directory, scratch / "mnt") if command == "mount" else (directory,)
    done = run_measured(home, command, *arguments)
    done.check_modest()

    assert done.status == (0 if command == "inspect" else 15), done.stderr
    check_shown(done.stdout, done.stderr)
