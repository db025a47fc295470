"""Programs are given a path on the mount and do exactly what they do on plain files."""

import os
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.support import cxx, infer, models
from tests.support.mounting import Home, run_as

pytestmark = [pytest.mark.fuse, pytest.mark.openvino]

INFER = Path(infer.__file__)
BENCHMARK_APP = Path(sys.executable).with_name("benchmark_app")

INPUT_SHAPES = {
    "onnx-external": "[1,512]",
    "large": None,  # static
}
BASIC_PITCH_SHAPE = "[1,43844,1]"

BY_OPENVINO = [str(model.path) for model in models.LAYOUT]
BY_ONNXRUNTIME = [
    str(model.path) for model in models.LAYOUT if "onnxruntime" in model.runtimes
]
BY_PATH = [path for path in BY_OPENVINO if not path.endswith(".blob")]
CONVERTIBLE = [path for path in BY_PATH if not path.endswith(".xml")]

Output = tuple[str, tuple[int, ...], bytes]


def run(home: Home, *command: str | os.PathLike[str], cwd: Path | None = None) -> str:
    done = run_as(home, *command, cwd=cwd)
    assert done.returncode == 0, done.stderr
    return done.stdout


def outputs(home: Home, directory: Path, model: Path, runtime: str) -> list[Output]:
    """Every bit of what a runtime makes of a model."""
    file = directory / "outputs.npz"
    run(home, sys.executable, INFER, model, "--runtime", runtime, "--out", file)
    with np.load(file) as arrays:
        return [
            (str(array.dtype), array.shape, array.tobytes())
            for array in (arrays[name] for name in arrays.files)
        ]


@pytest.mark.parametrize("model", BY_OPENVINO)
def test_openvino_computes_the_same(
    home: Home, plain: Path, mount: Path, tmp_path: Path, model: str
) -> None:
    expected = outputs(home, tmp_path, plain / model, "openvino")

    assert expected
    assert outputs(home, tmp_path, mount / model, "openvino") == expected


@pytest.mark.parametrize("model", BY_ONNXRUNTIME)
def test_onnxruntime_computes_the_same(
    home: Home, plain: Path, mount: Path, tmp_path: Path, model: str
) -> None:
    expected = outputs(home, tmp_path, plain / model, "onnxruntime")

    assert expected
    assert outputs(home, tmp_path, mount / model, "onnxruntime") == expected


@pytest.mark.parametrize("model", BY_OPENVINO)
def test_program_in_cxx_computes_the_same(
    home: Home, plain: Path, mount: Path, model: str
) -> None:
    if cxx.find_compiler() is None:
        pytest.skip("no g++ on this machine")
    app = cxx.build_guide_app(plain.parent)
    blob = ["--blob"] if model.endswith(".blob") else []
    expected = run(home, app, *blob, plain / model)

    assert expected
    assert run(home, app, *blob, mount / model) == expected


@pytest.mark.parametrize("model", CONVERTIBLE)
def test_ovc_converts_to_the_same(
    home: Home, plain: Path, mount: Path, tmp_path: Path, model: str
) -> None:
    converted = {}
    for base in (plain, mount):
        xml = models.convert_to_ir(base / model, tmp_path / base.name, name="model")
        converted[base] = xml.read_bytes(), xml.with_suffix(".bin").read_bytes()

    assert len(converted[plain][1]) > 0
    assert converted[mount] == converted[plain]


@pytest.mark.parametrize("model", BY_PATH)
def test_benchmark_app_runs(
    home: Home, mount: Path, tmp_path: Path, model: str
) -> None:
    shape = INPUT_SHAPES.get(Path(model).parts[0], BASIC_PITCH_SHAPE)
    options = [] if shape is None else ["-data_shape", shape]
    command = (BENCHMARK_APP, "-m", mount / model, "-d", "CPU", "-t", "1")
    printed = run(home, *command, *options, cwd=tmp_path)

    assert "Throughput:" in printed
    assert list(tmp_path.iterdir()) == []
