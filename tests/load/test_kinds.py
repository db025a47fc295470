"""Which kind of model a path is, and what is said where there is none."""

from pathlib import Path
from typing import Any

import pytest

import ovfuse
from ovfuse import OpenModel
from ovfuse.errors import IsADirectoryNodeError, LoadError, NotFoundError
from ovfuse.load.formats import ModelKind, kind_of
from tests.load.conftest import PATHS
from tests.support.mounting import Home, succeed
from tests.support.sealed import write_files

KINDS = {
    "compiled/basic_pitch.blob": ModelKind.BLOB,
    "onnx/nmp.onnx": ModelKind.ONNX,
    "onnx-external/external.onnx": ModelKind.ONNX,
    "tflite/nmp.tflite": ModelKind.TFLITE,
    "saved_model": ModelKind.SAVED_MODEL,
    "more/paddle.pdmodel": ModelKind.PADDLE,
    "more/frozen.pb": ModelKind.FROZEN,
}
ODD = {
    "model.txt": b"<net/>",
    "model": b"<net/>",
    "binary.xml": b"\x00<net/>",
    "empty.xml": b"",
    "text.onnx": b"<net/>",
    "text.tflite": b"<net/> TFL3",
    "text.pb": b"<graph>",
    "text.pdmodel": b"<net/>",
    "marked.XML": b"\xef\xbb\xbf\n <net/>",
    "saved/saved_model.pb": b"\x08\x01",
    "saved/assets/vocabulary.txt": b"a b",
    "saved/variables/variables.index": b"i",
    "saved/variables/variables.data-00000-of-00001": b"d",
    "directory.xml/file": b"x",
}


@pytest.fixture(scope="module")
def odd(home: Home) -> Path:
    cipherdir = home.directory / "odd"
    succeed(home, "encrypt", write_files(home.directory / "odd-plain", ODD), cipherdir)
    return cipherdir


class Recorder:
    """Stands for OpenVINO, to see what it is given."""

    def get_property(self, _name: str) -> str:
        return ""

    def read_model(self, path: Path) -> list[str]:
        return sorted(
            str(found.relative_to(path)) for found in path.rglob("*") if found.is_file()
        )


@pytest.mark.openvino
def test_real_models_are_what_they_are(as_home: Home, sealed: Path) -> None:
    with ovfuse.open_model(sealed) as model:
        kinds = {path: kind_of(model._source, path) for path in PATHS}

    assert kinds == {path: KINDS.get(path, ModelKind.IR) for path in PATHS}


def test_what_is_not_known_says_to_mount(as_home: Home, odd: Path) -> None:
    with ovfuse.open_model(odd) as model:
        for path in ("model.txt", "model"):
            with pytest.raises(LoadError, match="suffix") as caught:
                read(model, path)
            assert "mount" in caught.value.hint


@pytest.mark.parametrize(
    "path",
    ["binary.xml", "empty.xml", "text.onnx", "text.tflite", "text.pb", "text.pdmodel"],
)
def test_content_of_another_kind_is_refused(
    as_home: Home, odd: Path, path: str
) -> None:
    with (
        ovfuse.open_model(odd) as model,
        pytest.raises(LoadError, match="not what its name says"),
    ):
        read(model, path)


def test_paths_that_are_none(as_home: Home, odd: Path) -> None:
    with ovfuse.open_model(odd) as model:
        assert kind_of(model._source, "marked.XML") is ModelKind.IR
        with pytest.raises(IsADirectoryNodeError):
            read(model, "directory.xml")
        with pytest.raises(NotFoundError):
            read(model, "nonesuch.xml")
        for load in (model.import_model, model.compile_model):
            with pytest.raises(NotFoundError):
                load(None, "nonesuch.blob", "CPU")


def test_blob_is_to_be_imported(as_home: Home, sealed: Path) -> None:
    with (
        ovfuse.open_model(sealed) as model,
        pytest.raises(LoadError, match="compiled blob") as caught,
    ):
        read(model, "compiled/basic_pitch.blob")
    assert "import_model" in caught.value.hint


@pytest.mark.parametrize("path", ["saved", "saved/"])
def test_saved_model_is_its_directory_without_assets(
    as_home: Home, odd: Path, path: str
) -> None:
    with ovfuse.open_model(odd) as model:
        given: Any = model.read_model(Recorder(), path)

    assert given == [
        "saved_model.pb",
        "variables/variables.data-00000-of-00001",
        "variables/variables.index",
    ]


def read(model: OpenModel, path: str) -> object:
    core: Any = Recorder()
    return model.read_model(core, path)
