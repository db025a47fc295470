"""Sealed models that were made once: every version opens them."""

import json
import shutil
from pathlib import Path

import pytest

from ovfuse.keys import IdentityOpener, Place, Unlocker
from ovfuse.sealed.opening import SealedModel
from ovfuse.sealed.reader import ScratchPool
from tests.second_decryptor import Model
from tests.support.encryptor import Json
from tests.vectors.reading import Opener, ovfuse, released_by, second

V1 = Path(__file__).parent / "v1"
TRUSTED = V1 / "signing_key.pub"
MODELS: list[Json] = json.loads((V1 / "expect.json").read_bytes())
CASES = [
    pytest.param(model, identity, id=f"{model['model']}-{model['place']}-{identity}")
    for model in MODELS
    for identity in model["identities"]
]
(WITH_PASSPHRASE,) = (model for model in MODELS if "passphrase" in model)


def private_copy(name: str, directory: Path) -> Path:
    """Copy a key; git's umask decides who can read what is committed."""
    path = directory / name
    shutil.copyfile(V1 / name, path)
    path.chmod(0o600)
    return path


def expected(model: Json) -> Json:
    return {"expect": "success", "released": model["released"]}


def told_of(model: Json) -> Json:
    place = {"place": model["place"]} if model["place"] else {}
    return {**model.get("told", {}), **place}


def read(opener: Opener, model: Json, identity: Path, **more: str) -> Json:
    told = told_of(model) | more
    return released_by(opener, V1 / model["model"], identity, TRUSTED, told)


def test_every_model_is_listed() -> None:
    pointers = V1.rglob("model.ovfuse")
    listed = [V1 / model["model"] / model["place"] for model in MODELS]

    assert sorted(path.parent for path in pointers) == sorted(listed)


@pytest.mark.parametrize(("model", "identity"), CASES)
def test_ovfuse_opens_it(model: Json, identity: str, tmp_path: Path) -> None:
    assert read(ovfuse, model, private_copy(identity, tmp_path)) == expected(model)


@pytest.mark.tools
@pytest.mark.parametrize(("model", "identity"), CASES)
def test_second_decryptor_opens_it(model: Json, identity: str, tmp_path: Path) -> None:
    assert read(second, model, private_copy(identity, tmp_path)) == expected(model)


def test_passphrase_opens_it(tmp_path: Path) -> None:
    model = WITH_PASSPHRASE
    other = private_copy("ssh_ed25519", tmp_path)
    found = read(ovfuse, model, other, passphrase=model["passphrase"])

    assert found == expected(model)


@pytest.mark.parametrize("model", [m for m in MODELS if "told" not in m])
def test_directories_and_keys_are_found_as_by_a_user(
    model: Json, tmp_path: Path
) -> None:
    identities = [private_copy(name, tmp_path) for name in model["identities"]]
    unlocker = Unlocker.find(IdentityOpener.find(identities), [TRUSTED])
    directory = V1 / model["model"] / model["place"]
    with SealedModel.open(directory) as opened:
        sealing = unlocker.unlock(
            opened, ScratchPool(), place=Place(directory, "")
        ).sealing
        finding = opened.previous_finding(sealing.manifest)
    sealing.close()

    assert list(sealing.manifest.directories) == model["directories"]
    assert finding is None


@pytest.mark.tools
@pytest.mark.parametrize("model", MODELS)
def test_second_decryptor_finds_the_directories(model: Json, tmp_path: Path) -> None:
    identity = private_copy(model["identities"][0], tmp_path)
    found = Model(V1 / model["model"], identity, TRUSTED, **told_of(model))

    assert found.manifest["directories"] == model["directories"]
