"""Several sealed models below one cipherdir: some open, some do not."""

import errno
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from ovfuse.errors import DamagedError, NoUsableKeyError, UntrustedError
from tests.mount.conftest import Sealed, envelope_of, flip
from tests.support.mounting import Home, mounted, refused_mount, run_as, succeed
from tests.support.users import open_directory

pytestmark = pytest.mark.fuse

ACCESS, BROKEN = errno.EACCES, errno.EIO


@dataclass(frozen=True, kw_only=True)
class Tree:
    """A cipherdir with several models, and what is wrong with which."""

    home: Home
    plain: Path
    cipherdir: Path
    good: tuple[str, ...] = ("audio/whisper", "vision/resnet", "vision/small/yolo")
    refused: tuple[tuple[str, int], ...] = (
        ("vision/closed", ACCESS),
        ("vision/damaged", BROKEN),
        ("vision/misplaced", BROKEN),
        ("vision/started", BROKEN),
        ("vision/stranger", BROKEN),
    )


@pytest.fixture(scope="module")
def tree(small: Sealed) -> Iterator[Tree]:
    """Three models that open; five that are refused, each for another reason."""
    with open_directory() as place:
        home = Home(directory=place / "home")
        stranger = Home(directory=place / "stranger")
        top = place / "sealed"
        for folder in ("audio", "vision/small", "notes/empty"):
            (top / folder).mkdir(parents=True)
        (top / "README").write_text("not sealed")
        (top / "vision" / "weights.bin").write_text("not sealed")
        tree = Tree(home=home, plain=small.plain, cipherdir=top)
        for name in tree.good:
            succeed(home, "encrypt", small.plain, top / name)
        succeed(stranger, "keygen")
        recipients = ("-r", stranger.recipient)
        succeed(home, "encrypt", *recipients, small.plain, top / "vision/closed")
        recipients = ("-r", home.recipient)
        succeed(stranger, "encrypt", *recipients, small.plain, top / "vision/stranger")
        shutil.copytree(top / "audio/whisper", top / "vision/misplaced")
        shutil.copytree(top / "audio/whisper", top / "vision/damaged")
        flip(envelope_of(top / "vision/damaged"), 700)
        (top / "vision/started/seals").mkdir(parents=True)
        (top / "link").symlink_to("audio")
        (top / "vision" / "link").symlink_to("resnet")
        yield tree


@pytest.fixture
def copy(tree: Tree, scratch: Path) -> Path:
    """The cipherdir, for a test that changes it."""
    shutil.copytree(tree.cipherdir, scratch / "sealed", symlinks=True)
    return scratch / "sealed"


def test_models_that_open_are_whole_and_others_say_why(
    tree: Tree, mountpoint: Path, engine: str
) -> None:
    with mounted(tree.home, tree.cipherdir, mountpoint, engine=engine) as mount:
        assert sorted(os.listdir(mountpoint)) == ["audio", "vision"]
        assert sorted(os.listdir(mountpoint / "audio")) == ["whisper"]
        assert sorted(os.listdir(mountpoint / "vision")) == sorted(
            ("resnet", "small", *(path.split("/")[1] for path, _ in tree.refused))
        )
        assert os.listdir(mountpoint / "vision" / "small") == ["yolo"]
        looked_at = [model["path"] for model in mount.status()["models"]]
        assert looked_at == sorted((*tree.good, *(path for path, _ in tree.refused)))
        states = {model["state"] for model in mount.status()["models"]}
        assert "locked" in states

        for path, code in tree.refused:
            assert (mountpoint / path).is_dir()
            for look in (
                lambda path=path: os.listdir(mountpoint / path),
                lambda path=path: (mountpoint / path / "model.xml").stat(),
                lambda path=path: (mountpoint / path / "none").open(),
            ):
                with pytest.raises(OSError) as raised:  # noqa: PT011 - errno is next
                    look()
                assert raised.value.errno == code, path
        for path in tree.good:
            served = mountpoint / path
            assert sorted(os.listdir(served)) == ["model.bin", "model.xml", "sub"]
            data = (tree.plain / "model.bin").read_bytes()
            assert (served / "model.bin").read_bytes() == data

        by_path = {model["path"]: model for model in mount.status()["models"]}
        for path in tree.good:
            assert by_path[path]["state"] == "unlocked"
            assert by_path[path]["name"] == path.rpartition("/")[2]
            assert by_path[path]["version"] == 1
            assert len(by_path[path]["model_id"]) == 32
        reasons = {path: by_path[path]["reason"] for path, _ in tree.refused}
        for path, _ in tree.refused:
            assert by_path[path]["state"] == "refused"
            assert (by_path[path]["name"], by_path[path]["version"]) == ("", 0)
        assert "not sealed for any of your identities" in reasons["vision/closed"]
        assert "signed name is 'whisper'" in reasons["vision/misplaced"]
        assert "is missing" in reasons["vision/started"]
        assert "SHA256:" in reasons["vision/stranger"]
        assert reasons["vision/damaged"]
        text = succeed(tree.home, "status")
        assert all(reason in text for reason in reasons.values())


def test_tools_walk_over_what_is_refused(
    tree: Tree, mountpoint: Path, engine: str
) -> None:
    with mounted(tree.home, tree.cipherdir, mountpoint, engine=engine):
        seen: list[OSError] = []
        files = [
            name
            for _, _, names in os.walk(mountpoint, onerror=seen.append)
            for name in names
        ]

    assert len(files) == 4 * len(tree.good)
    assert {(error.filename, error.errno) for error in seen} == {
        (f"{mountpoint}/{path}", code) for path, code in tree.refused
    }


def test_mount_of_a_part_of_the_tree(tree: Tree, mountpoint: Path, engine: str) -> None:
    part = tree.cipherdir / "vision" / "small"
    with mounted(tree.home, part, mountpoint, engine=engine):
        assert (mountpoint / "yolo" / "model.xml").stat().st_size == 3000
    # As a single model it has no place that its name could contradict.
    misplaced = tree.cipherdir / "vision" / "misplaced"
    with mounted(tree.home, misplaced, mountpoint, engine=engine) as mount:
        assert mount.model()["name"] == "whisper"


def test_strict_refuses_if_one_does_not_open(
    tree: Tree, copy: Path, mountpoint: Path, engine: str
) -> None:
    strict = ("-o", "strict")
    said = refused_mount(
        tree.home, NoUsableKeyError, copy, mountpoint, *strict, engine=engine
    )
    assert "'vision/closed'" in said
    shutil.rmtree(copy / "vision")
    with mounted(tree.home, copy, mountpoint, *strict, engine=engine) as mount:
        assert mount.model("audio/whisper")["state"] == "unlocked"


def test_tree_in_which_none_opens_is_refused(
    tree: Tree, copy: Path, mountpoint: Path, engine: str
) -> None:
    for path in tree.good:
        flip(envelope_of(copy / path), 700)

    said = refused_mount(tree.home, DamagedError, copy, mountpoint, engine=engine)
    assert "'audio/whisper'" in said


def test_demanded_model_must_be_there_and_open(
    tree: Tree, mountpoint: Path, engine: str
) -> None:
    wanted = ("-o", "model=yolo")
    with mounted(
        tree.home, tree.cipherdir, mountpoint, *wanted, engine=engine
    ) as mount:
        assert mount.model("vision/small/yolo")["state"] == "unlocked"
    for name in ("none", "closed", "whisper2", "small/yolo"):
        said = refused_mount(
            *(tree.home, UntrustedError, tree.cipherdir, mountpoint),
            *("-o", f"model={name}"),
            engine=engine,
        )
        assert f"'{name}'" in said


def test_name_may_be_a_path_and_must_fit(
    tree: Tree, scratch: Path, mountpoint: Path, engine: str
) -> None:
    top = scratch / "top"
    for place in ("a/b/model", "x/b/model"):
        (top / place).parent.mkdir(parents=True)
        name = ("--name", "a/b/model")
        succeed(tree.home, "encrypt", *name, tree.plain, top / place)
    with mounted(tree.home, top, mountpoint, engine=engine) as mount:
        assert (mountpoint / "a/b/model/model.xml").exists()
        with pytest.raises(OSError, match="Input/output error"):
            os.listdir(mountpoint / "x/b/model")
        assert "does not fit its place" in mount.model("x/b/model")["reason"]


def test_refusal_is_told_on_the_way_and_in_the_log(
    tree: Tree, scratch: Path, engine: str
) -> None:
    log = scratch / "log"
    options = ("-o", f"log={log}")
    mountpoint = scratch / "mnt"
    with mounted(tree.home, tree.cipherdir, mountpoint, *options, engine=engine):
        for _ in range(3):
            with pytest.raises(PermissionError):
                os.listdir(mountpoint / "vision" / "closed")

    lines = [line for line in log.read_text().splitlines() if "closed" in line]
    assert any("'vision/closed' is refused: it is not sealed" in line for line in lines)
    assert len([line for line in lines if " INFO denied " not in line]) <= 2


def test_numbers_in_a_tree_are_unique_and_stable(
    tree: Tree, copy: Path, scratch: Path, engine: str
) -> None:
    shutil.rmtree(copy / "vision")
    for name in ("a", "b"):  # the same sealing in two places
        shutil.copytree(copy / "audio" / "whisper", copy / name / "whisper")
    seen = []
    for place in ("one", "two"):
        with mounted(tree.home, copy, scratch / place, engine=engine):
            paths = sorted((scratch / place).rglob("*"))
            seen.append([path.stat().st_ino for path in paths])

    assert seen[0] == seen[1]
    assert len(seen[0]) == len(set(seen[0])) == 3 * 7 + 3


def test_directory_that_is_closed_to_the_user_counts_as_a_model(
    user: Home, small: Sealed, engine: str
) -> None:
    place = user.make_directory(user.directory / "place")
    user.make_directory(place / "tree")
    succeed(user, "encrypt", small.plain, place / "tree" / "open")
    (place / "tree" / "closed").mkdir(mode=0o700)
    with mounted(user, place / "tree", place / "mnt", engine=engine) as mount:
        done = run_as(user, "ls", "-R", "mnt", cwd=place)
        assert "Input/output error" in done.stderr
        assert "model.xml" in done.stdout
        assert mount.model("open")["state"] == "unlocked"
        assert "Permission denied" in mount.model("closed")["reason"]


def test_status_as_json_is_for_programs(
    tree: Tree, mountpoint: Path, engine: str
) -> None:
    with mounted(tree.home, tree.cipherdir, mountpoint, engine=engine) as mount:
        status = mount.status()
        assert json.dumps(status)

    assert status["engine"] == engine
    assert status["cipherdir"] == f"{tree.cipherdir}"
    assert status["failed_reads"] == 0
    assert {"name", "path", "model_id", "version", "state", "reason"} <= (
        status["models"][0].keys()
    )
