"""Pipelines of openvino_genai, by path, sealed, and on a mount: the same text."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

import ovfuse
from ovfuse.errors import LoadError, NotFoundError
from tests.load.genai_app import EMBEDDING, LLM, PROMPT
from tests.support import tiny_genai
from tests.support.models import ROOT
from tests.support.mounting import ENGINES, Home, mounted, run_as, succeed

pytestmark = pytest.mark.openvino

BACKENDS = ("SDPA", "PA")


@pytest.fixture(scope="module")
def plain_genai(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A language model and an embedding."""
    directory = tmp_path_factory.mktemp("genai") / "plain"
    tiny_genai.make_llm(directory / LLM)
    tiny_genai.make_embedding(directory / EMBEDDING)
    return directory


@pytest.fixture(scope="module")
def sealed_genai(home: Home, plain_genai: Path) -> Path:
    """The same, sealed."""
    cipherdir = home.directory / "sealed-genai"
    succeed(home, "encrypt", plain_genai, cipherdir)
    return cipherdir


def say(home: Home, door: str, directory: Path, **properties: Any) -> dict[str, Any]:
    """Run the app, which must not crash."""
    module = ("-m", "tests.load.genai_app")
    words = (door, str(directory), json.dumps(properties))
    done = run_as(home, sys.executable, *module, *words, cwd=ROOT)
    assert done.returncode == 0, (done.returncode, done.stderr)
    said = json.loads(done.stdout.splitlines()[-1])
    assert isinstance(said, dict)
    return said


@pytest.mark.parametrize("backend", BACKENDS)
def test_sealed_says_the_same_as_by_path(
    home: Home, plain_genai: Path, sealed_genai: Path, backend: str
) -> None:
    expected = say(home, "path", plain_genai, ATTENTION_BACKEND=backend)

    assert say(home, "ovfuse", sealed_genai, ATTENTION_BACKEND=backend) == expected
    assert expected["limit"] == 12  # of generation_config.json
    assert len(expected["text"]) > 3
    assert expected["chat"] == f"<user>{PROMPT}"  # of tokenizer_config.json
    assert expected["decoded"] == PROMPT
    assert expected["warned"] == []


@pytest.mark.fuse
@pytest.mark.parametrize("engine", ENGINES)
def test_mount_says_the_same_by_both_ways(
    home: Home, plain_genai: Path, sealed_genai: Path, tmp_path: Path, engine: str
) -> None:
    expected = say(home, "path", plain_genai)
    mountpoint = tmp_path / "mnt"
    with mounted(home, sealed_genai, mountpoint, engine=engine):
        by_path = say(home, "path", mountpoint)
        from_memory = say(home, "ovfuse", mountpoint)

    assert by_path == from_memory == expected


def test_cache_is_off_with_a_warning(
    home: Home, sealed_genai: Path, tmp_path: Path
) -> None:
    said = say(home, "ovfuse", sealed_genai, CACHE_DIR=str(tmp_path / "cache"))

    (warning,) = said["warned"]
    assert "its cache is off" in warning
    assert not (tmp_path / "cache").exists()


def test_cache_by_path_is_plaintext(
    home: Home, plain_genai: Path, tmp_path: Path
) -> None:
    """What the warning is about."""
    say(home, "path", plain_genai, CACHE_DIR=str(tmp_path / "cache"))

    weights = (plain_genai / LLM / "openvino_model.bin").read_bytes()
    (blob,) = (tmp_path / "cache").iterdir()
    assert weights[4096:4160] in blob.read_bytes()


def test_damaged_weights_are_refused(
    home: Home, plain_genai: Path, tmp_path: Path
) -> None:
    succeed(home, "encrypt", plain_genai, tmp_path / "sealed")
    for path in (tmp_path / "sealed").glob("seals/*/objects/*"):
        data = bytearray(path.read_bytes())
        data[-20] ^= 1
        path.write_bytes(data)

    assert say(home, "ovfuse", tmp_path / "sealed") == {"error": "DamagedError"}


@pytest.mark.usefixtures("as_home")
def test_other_names_are_refused(
    home: Home, plain_genai: Path, sealed_genai: Path, tmp_path: Path
) -> None:
    from ovfuse.load.genai import llm_pipeline, pipeline, tokenizer

    made: list[Path] = []
    with ovfuse.open_model(sealed_genai) as model:
        with pytest.raises(NotFoundError):
            llm_pipeline(model, "CPU")
        with pytest.raises(NotFoundError):
            tokenizer(model, "nothing")
        with pytest.raises(LoadError, match="no model of openvino_genai"):
            pipeline(model, lambda path, *_, **__: made.append(path), "CPU", "none")
        with pytest.raises(LoadError, match="no model of openvino_genai"):
            pipeline(model, lambda path, *_, **__: made.append(path), "CPU")
    assert made == []


@pytest.mark.usefixtures("as_home")
def test_links_are_gone_when_the_pipeline_is_made(sealed_genai: Path) -> None:
    from ovfuse.load.genai import pipeline

    seen: dict[str, bytes] = {}

    def kind(path: Path, device: str, **properties: Any) -> Path:
        seen.update({file.name: file.read_bytes() for file in path.iterdir()})
        assert path.stat().st_mode & 0o777 == 0o700
        assert all(file.is_symlink() for file in path.iterdir())
        assert (device, properties) == ("GPU", {"CACHE_DIR": "", "a": 1})
        return path

    with ovfuse.open_model(sealed_genai) as model:
        path = pipeline(model, kind, "GPU", LLM, a=1)
        expected = {
            name.removeprefix(f"{LLM}/"): model.read_bytes(name)
            for name in model.files
            if name.startswith(f"{LLM}/")
        }

    assert seen == expected
    assert not path.exists()


@pytest.mark.usefixtures("as_home")
def test_app_may_bring_its_own_generation_config(sealed_genai: Path) -> None:
    import openvino_genai

    from ovfuse.load.genai import llm_pipeline

    config = openvino_genai.GenerationConfig(max_new_tokens=3)
    with ovfuse.open_model(sealed_genai) as model:
        made = llm_pipeline(model, "CPU", LLM, generation_config=config)

    assert made.get_generation_config().max_new_tokens == 3
