"""No going back, as commands show it."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from ovfuse.errors import NoUsableKeyError, RollbackError, TermsError
from tests.support.mounting import Home, refused, run_ovfuse, succeed


@pytest.fixture
def device(home: Home, scratch: Path) -> Home:
    """Another account, with the same identity, which trusts the publisher."""
    succeed(home, "keygen")
    device = Home(
        directory=scratch / "device", extra={"OVFUSE_IDENTITY": f"{home.identity}"}
    )
    succeed(device, "trust", "add", home.public_key)
    return device


@pytest.fixture
def versions(home: Home, plain: Path, scratch: Path) -> dict[str, Path]:
    """Sealings of one name: two versions, another second one, another model."""
    found = {}
    here = scratch / "made" / "model"
    here.parent.mkdir()
    for name in ("first", "second"):
        succeed(home, "encrypt", plain, here)
        found[name] = shutil.copytree(here, scratch / name)
    (plain / "model.xml").write_text("<other/>")
    shutil.rmtree(here)
    shutil.copytree(found["first"], here)
    succeed(home, "verify", "--allow-rollback", here)
    succeed(home, "encrypt", plain, here)
    found["other second"] = shutil.copytree(here, scratch / "other")
    succeed(home, "encrypt", "--new-model", plain, here)
    succeed(home, "encrypt", plain, here)
    succeed(home, "encrypt", plain, here)
    found["other model"] = here
    return found


def put(sealing: Path, place: Path) -> Path:
    """Replace what is in a place."""
    shutil.rmtree(place, ignore_errors=True)
    return shutil.copytree(sealing, place)


def checked(home: Home, cipherdir: Path, *options: str) -> list[dict[str, Any]]:
    done = run_ovfuse(home, "verify", "--json", *options, cipherdir)
    models = json.loads(done.stdout)["models"]
    assert (done.returncode == 0) == (not any(m["error"] for m in models))
    assert isinstance(models, list)
    return models


@pytest.mark.parametrize("name", ["first", "other second", "other model"])
def test_what_goes_back_is_refused_until_it_is_allowed(
    device: Home, versions: dict[str, Path], scratch: Path, name: str
) -> None:
    place = put(versions["second"], scratch / "model")
    succeed(device, "verify", place)
    put(versions[name], place)

    done = run_ovfuse(device, "verify", place)
    assert done.returncode == RollbackError.exit_code
    assert "--allow-rollback" in done.stderr
    arguments = ("decrypt", place, scratch / "out")
    assert "was seen here" in refused(device, RollbackError, *arguments)
    assert not (scratch / "out").exists()
    succeed(device, "decrypt", "--allow-rollback", place, scratch / "out")
    succeed(device, "verify", place)


def test_no_second_version_of_the_same_number_is_made(
    home: Home, plain: Path, scratch: Path
) -> None:
    """A publisher whose cipherdir went back would be refused by every device."""
    here = scratch / "model"
    succeed(home, "encrypt", plain, here)
    older = shutil.copytree(here, scratch / "older")
    succeed(home, "encrypt", plain, here)
    put(older, here)

    said = refused(home, RollbackError, "encrypt", plain, here)
    assert "it is version 1, and version 2 was seen here" in said
    assert "--new-model" in said
    assert sorted(here.rglob("*")) == sorted(here / p for p in inside(older))
    succeed(home, "encrypt", "--new-model", plain, here)
    succeed(home, "encrypt", plain, here)


def inside(directory: Path) -> list[Path]:
    return [path.relative_to(directory) for path in directory.rglob("*")]


def test_place_in_a_tree_has_its_own_state(
    device: Home, versions: dict[str, Path], scratch: Path
) -> None:
    tree = scratch / "tree"
    put(versions["second"], tree / "a" / "model")
    put(versions["first"], tree / "b" / "model")
    assert [m["error"] for m in checked(device, tree)] == ["", ""]
    put(versions["first"], tree / "a" / "model")

    errors = [model["error"] for model in checked(device, tree)]
    assert errors == ["it is version 1, and version 2 was seen here", ""]
    succeed(device, "verify", tree / "a" / "model")  # another place
    (scratch / "link").symlink_to(tree)  # the same one
    assert checked(device, scratch / "link")[0]["error"] == errors[0]


def test_first_sight_is_noted_and_own_sealings_are_known(
    device: Home, home: Home, versions: dict[str, Path], plain: Path, scratch: Path
) -> None:
    place = put(versions["second"], scratch / "model")
    done = run_ovfuse(device, "verify", place)
    note = f"ovfuse: first sight of '{place}', version 2: nothing to compare it with\n"
    assert done.stderr == note
    assert run_ovfuse(device, "verify", place).stderr == ""

    sealed = scratch / "own"
    succeed(home, "encrypt", plain, sealed)
    assert run_ovfuse(home, "verify", sealed).stderr == ""
    shutil.rmtree(sealed)
    succeed(home, "encrypt", plain, sealed)
    assert run_ovfuse(home, "verify", sealed).stderr == ""
    succeed(home, "encrypt", "--new-model", plain, sealed)
    assert run_ovfuse(home, "verify", sealed).stderr == ""


def test_lost_state_is_said(
    device: Home, versions: dict[str, Path], scratch: Path
) -> None:
    place = put(versions["second"], scratch / "model")
    succeed(device, "verify", place)
    (state,) = (device.directory / "state/ovfuse/seen").glob("*.json")
    state.write_text("rubbish")
    put(versions["first"], place)

    done = run_ovfuse(device, "verify", place)
    assert done.returncode == 0
    assert "is damaged: what was seen before is lost" in done.stderr
    assert json.loads(state.read_text())["version"] == 1
    shutil.rmtree(device.directory / "state")
    assert "first sight" in run_ovfuse(device, "verify", place).stderr


def test_state_that_cannot_be_kept_is_one_warning(
    device: Home, versions: dict[str, Path], scratch: Path
) -> None:
    for name in ("a", "b"):
        put(versions["second"], scratch / "tree" / name / "model")
    (device.directory / "state").write_text("in the way")

    done = run_ovfuse(device, "verify", scratch / "tree")
    assert done.returncode == 0
    (line,) = done.stderr.splitlines()
    assert line.startswith("ovfuse: warning: going back to older versions is not")


def test_what_does_not_unlock_is_not_remembered(
    device: Home, home: Home, plain: Path, scratch: Path
) -> None:
    place = scratch / "model"
    succeed(home, "encrypt", "--not-before", "2200-01-01", plain, place)
    refused(device, TermsError, "decrypt", place, scratch / "out")
    stranger = Home(directory=scratch / "stranger")
    allow = "--allow-untrusted"
    refused(stranger, NoUsableKeyError, "decrypt", allow, place, scratch / "out")

    for who in (device, stranger):
        assert list(who.directory.glob("state/ovfuse/seen/*.json")) == []
