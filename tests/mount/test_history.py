"""No going back, in a mount; terms in a tree."""

import os
import shutil
from pathlib import Path

import pytest

from ovfuse.errors import RollbackError, TermsError
from tests.mount.conftest import Sealed
from tests.support.mounting import Home, mounted, refused_mount, succeed

pytestmark = pytest.mark.fuse


@pytest.fixture
def device(publisher: Home, scratch: Path) -> Home:
    """Another account, with the same identity, which trusts the publisher."""
    device = Home(
        directory=scratch / "device",
        extra={"OVFUSE_IDENTITY": f"{publisher.identity}"},
    )
    succeed(device, "trust", "add", publisher.public_key)
    return device


@pytest.fixture
def versions(publisher: Home, small: Sealed, scratch: Path) -> tuple[Path, Path]:
    """The first and the second version of one model."""
    made = scratch / "made" / "model"
    made.parent.mkdir()
    succeed(publisher, "encrypt", small.plain, made)
    first = shutil.copytree(made, scratch / "first")
    succeed(publisher, "encrypt", small.plain, made)
    return first, made


def put(sealing: Path, place: Path) -> Path:
    shutil.rmtree(place, ignore_errors=True)
    return shutil.copytree(sealing, place)


def test_older_version_is_refused_until_it_is_allowed(
    device: Home,
    versions: tuple[Path, Path],
    scratch: Path,
    mountpoint: Path,
    engine: str,
) -> None:
    first, second = versions
    place = put(second, scratch / "model")
    with mounted(device, place, mountpoint, engine=engine):
        pass
    put(first, place)

    said = refused_mount(device, RollbackError, place, mountpoint, engine=engine)
    assert "it is version 1, and version 2 was seen here" in said
    assert "-o allow_rollback" in said
    allowed = ("-o", "allow_rollback")
    with mounted(device, place, mountpoint, *allowed, engine=engine) as mount:
        assert mount.model()["version"] == 1
    with mounted(device, place, mountpoint, engine=engine):
        pass


def test_older_version_in_a_tree_is_refused_alone(
    device: Home,
    versions: tuple[Path, Path],
    scratch: Path,
    mountpoint: Path,
    engine: str,
) -> None:
    first, second = versions
    tree, log = scratch / "tree", scratch / "log"
    for name in ("a", "b"):
        put(second, tree / name / "model")
    with mounted(device, tree, mountpoint, "-o", "strict", engine=engine):
        pass
    put(first, tree / "b" / "model")

    options = ("-o", f"log={log}")
    with mounted(device, tree, mountpoint, *options, engine=engine) as mount:
        assert os.listdir(mountpoint / "a" / "model")
        with pytest.raises(PermissionError):
            os.listdir(mountpoint / "b" / "model")
        assert mount.model("b/model")["state"] == "refused"
        assert "was seen here" in mount.model("b/model")["reason"]
    assert "'b/model' is refused: it is version 1" in log.read_text()
    options = ("-o", "strict")
    refused_mount(device, RollbackError, tree, mountpoint, *options, engine=engine)


def test_terms_in_a_tree(
    publisher: Home, small: Sealed, scratch: Path, mountpoint: Path, engine: str
) -> None:
    (scratch / "tree").mkdir()
    succeed(publisher, "encrypt", small.plain, scratch / "tree" / "a")
    for name, *terms in (
        ("machine", "--machine", "0" * 64),
        ("early", "--not-before", "2200-01-01"),
    ):
        sealed = scratch / "tree" / name
        succeed(publisher, "encrypt", *terms, small.plain, sealed)
        strict = ("-o", "strict")
        refused_mount(
            *(publisher, TermsError, scratch / "tree", mountpoint),
            *strict,
            engine=engine,
        )
        with mounted(publisher, scratch / "tree", mountpoint, engine=engine):
            with pytest.raises(PermissionError):
                os.listdir(mountpoint / name)
            assert os.listdir(mountpoint / "a")
        shutil.rmtree(sealed)
