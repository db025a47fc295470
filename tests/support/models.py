"""Real models on disk, for the tests and the demo.

Fetched, converted or made from seeds: the same files each time, so that results can
be compared bit for bit. `build_model_directory` lays one of every kind out as
`LAYOUT` says; whoever needs less calls the function for it. OpenVINO and ONNX are
imported only where they are needed, and by `_import_openvino`, which keeps OpenVINO's
telemetry quiet.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import numpy.typing as npt

ROOT = Path(__file__).resolve().parents[2]
MODELS_LOCK = ROOT / "requirements" / "models.lock"

MiB = 1 << 20
F32_SIZE = 4
PIP_TIMEOUT_SECONDS = 300
OVC_TIMEOUT_SECONDS = 300

CONTENTS = "contents.json"
"""Says what each part of a model directory was made from."""


@dataclass(frozen=True, kw_only=True)
class BasicPitch:
    """One small network (audio to notes, Apache-2.0) in three formats."""

    onnx: Path
    tflite: Path
    saved_model: Path


@dataclass(frozen=True, kw_only=True)
class Model:
    """A model of the model directory: what an app is given as its path."""

    path: PurePosixPath
    kind: str
    runtimes: tuple[str, ...] = ("openvino",)


BOTH = ("openvino", "onnxruntime")

LAYOUT = (
    Model(path=PurePosixPath("ir/basic_pitch.xml"), kind="OpenVINO IR"),
    Model(path=PurePosixPath("onnx/nmp.onnx"), kind="ONNX", runtimes=BOTH),
    Model(
        path=PurePosixPath("onnx-external/external.onnx"),
        kind="ONNX + data file",
        runtimes=BOTH,
    ),
    Model(path=PurePosixPath("tflite/nmp.tflite"), kind="TFLite"),
    Model(path=PurePosixPath("saved_model"), kind="TF SavedModel"),
    Model(path=PurePosixPath("large/large.xml"), kind="OpenVINO IR"),
    Model(path=PurePosixPath("compiled/basic_pitch.blob"), kind="compiled blob"),
)
"""What `build_model_directory` lays out, by the path inside the directory."""


def fetch_basic_pitch(cache_dir: Path) -> BasicPitch:
    """Return the model files of the basic-pitch wheel; download them only once."""
    lock_digest = sha256(MODELS_LOCK.read_bytes()).hexdigest()[:16]
    target = cache_dir / f"basic-pitch-{lock_digest}"
    if not target.is_dir():
        with _appearing(target) as fresh:
            _download_and_unpack(fresh)
    return BasicPitch(
        onnx=target / "nmp.onnx",
        tflite=target / "nmp.tflite",
        saved_model=target / "nmp",
    )


def _download_and_unpack(target: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="ovfuse-wheel-") as downloads:
        command = [sys.executable, "-m", "pip", "download", "--quiet"]
        command += ["--disable-pip-version-check", "--no-deps", "--only-binary=:all:"]
        command += ["--require-hashes", "--requirement", str(MODELS_LOCK)]
        command += ["--dest", downloads]
        subprocess.run(command, check=True, timeout=PIP_TIMEOUT_SECONDS)
        (wheel,) = Path(downloads).glob("basic_pitch-*.whl")
        _unpack(wheel, "basic_pitch/saved_models/icassp_2022/", target)


def _unpack(wheel: Path, prefix: str, target: Path) -> None:
    """Unpack what lies below `prefix`; the wheel's hash has been checked by pip."""
    with zipfile.ZipFile(wheel) as archive:
        for member in archive.namelist():
            if member.startswith(prefix) and not member.endswith("/"):
                path = target / member.removeprefix(prefix)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(archive.read(member))


def convert_to_ir(
    saved_model: Path,
    out_dir: Path,
    *,
    name: str = "basic_pitch",
    compress_to_fp16: bool = False,
) -> Path:
    """Convert a SavedModel with OpenVINO's own `ovc`; return the .xml of the IR."""
    command = [str(Path(sys.executable).with_name("ovc")), str(saved_model.resolve())]
    command += ["--output_model", f"{name}.xml"]
    command += [f"--compress_to_fp16={compress_to_fp16}"]
    out_dir.mkdir(parents=True, exist_ok=True)
    subprocess.run(
        command,
        check=True,
        # ovc writes the output's path into the IR: a relative one is always the same.
        cwd=out_dir,
        env=os.environ | {"CI": "true"},
        stdout=subprocess.DEVNULL,
        timeout=OVC_TIMEOUT_SECONDS,
    )
    return out_dir / f"{name}.xml"


def onnx_with_external_data(
    directory: Path, *, name: str = "external", width: int = 512, layers: int = 2
) -> Path:
    """Make an ONNX model whose weights (1 MiB a layer) lie in a file beside it."""
    import onnx

    nodes, weights, tensor = [], [], "input"
    for layer, values in enumerate(_weights(seed=1, width=width, layers=layers)):
        weight, product, result = f"weight{layer}", f"product{layer}", f"relu{layer}"
        weights.append(onnx.numpy_helper.from_array(values, weight))
        nodes.append(onnx.helper.make_node("MatMul", [tensor, weight], [product]))
        nodes.append(onnx.helper.make_node("Relu", [product], [result]))
        tensor = result
    ends = [
        onnx.helper.make_tensor_value_info(
            end, onnx.TensorProto.FLOAT, ["batch", width]
        )
        for end in ("input", tensor)
    ]
    model = onnx.helper.make_model(
        onnx.helper.make_graph(nodes, name, ends[:1], ends[1:], weights),
        opset_imports=[onnx.helper.make_opsetid("", 17)],
        ir_version=10,
    )
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"{name}.onnx"
    (directory / f"{name}.onnx.data").unlink(missing_ok=True)
    onnx.save_model(
        model, path, save_as_external_data=True, location=f"{name}.onnx.data"
    )
    return path


def large_ir(path: Path, size: int) -> Path:
    """Make an IR of about `size` bytes of f32 weights that no compressor can shrink.

    `path` is the .xml; the shape is static, so that benchmark_app needs no options.
    """
    openvino = _import_openvino()
    width = _layer_width(size)
    layers = max(1, round(size / (width * width * F32_SIZE)))
    opset = openvino.opset13
    parameter = opset.parameter([1, width], openvino.Type.f32, name="input")
    node = parameter
    for values in _weights(seed=2, width=width, layers=layers):
        node = opset.matmul(
            node, opset.constant(values), transpose_a=False, transpose_b=False
        )
    model = openvino.Model([opset.result(node)], [parameter], path.stem)
    path.parent.mkdir(parents=True, exist_ok=True)
    openvino.save_model(model, path, compress_to_fp16=False)
    return path


def _layer_width(size: int) -> int:
    """Return the width at which about 16 square layers have `size` bytes."""
    width = 16
    while width < 2048 and (2 * width) ** 2 * F32_SIZE * 16 <= size:
        width *= 2
    return width


def _weights(
    *, seed: int, width: int, layers: int
) -> Iterator[npt.NDArray[np.float32]]:
    """Yield square matrices that keep the size of the values they are applied to."""
    random = np.random.default_rng(seed)
    for _ in range(layers):
        values = random.standard_normal((width, width), dtype=np.float32)
        values /= np.float32(np.sqrt(width))
        yield values


def export_blob(model: Path, blob: Path) -> Path:
    """Compile a model for this machine's CPU and export the result.

    In f32, on one thread: as tests/support/infer.py and the guide's app compile it.
    """
    config = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
    compiled = _import_openvino().Core().compile_model(model, "CPU", config)
    blob.parent.mkdir(parents=True, exist_ok=True)
    blob.write_bytes(compiled.export_model().getbuffer())
    return blob


def build_model_directory(dest: Path, cache_dir: Path, large_size: int) -> Path:
    """Lay out all of `LAYOUT` in `dest`; whatever is there and still fits is kept.

    `CONTENTS` names what each part was made from; it is written last, and a part only
    appears whole, so an interrupted run is made good by the next.
    """
    cache_dir.mkdir(parents=True, exist_ok=True)
    dest.mkdir(parents=True, exist_ok=True)
    with _lock(cache_dir / "build.lock"):
        source = fetch_basic_pitch(cache_dir)
        origins = _origins(source, large_size)
        contents = dest / CONTENTS
        made = json.loads(contents.read_text()) if contents.exists() else {}
        for part, build in _builders(source, dest, large_size).items():
            if made.get(part) == origins[part] and (dest / part).is_dir():
                continue
            contents.unlink(missing_ok=True)
            shutil.rmtree(dest / part, ignore_errors=True)
            with _appearing(dest / part) as fresh:
                build(fresh)
        if not contents.exists():
            contents.write_text(json.dumps(origins, indent=2) + "\n")
    return dest


def _builders(
    source: BasicPitch, dest: Path, large_size: int
) -> dict[str, Callable[[Path], object]]:
    """Return who fills which directory of the layout."""
    ir = dest / "ir" / "basic_pitch.xml"
    return {
        "ir": lambda part: convert_to_ir(source.saved_model, part),
        "onnx": lambda part: shutil.copy(source.onnx, part),
        "onnx-external": onnx_with_external_data,
        "tflite": lambda part: shutil.copy(source.tflite, part),
        "saved_model": lambda part: shutil.copytree(
            source.saved_model, part, dirs_exist_ok=True
        ),
        "large": lambda part: large_ir(part / "large.xml", large_size),
        "compiled": lambda part: export_blob(ir, part / "basic_pitch.blob"),
    }


def _origins(source: BasicPitch, large_size: int) -> dict[str, str]:
    """Return what each part depends on, to know whether it must be made again."""
    openvino = _import_openvino()
    core = openvino.Core()
    runtime = f"openvino {openvino.get_version()}"
    cpu = core.get_property("CPU", "FULL_DEVICE_NAME")
    capabilities = " ".join(core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"))
    fetched = source.onnx.parent.name
    return {
        "ir": f"{fetched}, {runtime}",
        "onnx": fetched,
        "onnx-external": "seed 1",
        "tflite": fetched,
        "saved_model": fetched,
        "large": f"seed 2, {large_size} bytes, {runtime}",
        "compiled": f"{fetched}, {runtime}, {cpu}, {capabilities}",
    }


@contextmanager
def _appearing(target: Path) -> Iterator[Path]:
    """Give a fresh directory that becomes `target` in one step when all went well.

    Whoever comes second in a race finds the first one's `target` and keeps that.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(
        prefix=f".{target.name}-", dir=target.parent
    ) as parent:
        fresh = Path(parent) / target.name
        fresh.mkdir()
        yield fresh
        try:
            fresh.rename(target)
        except OSError:
            if not target.is_dir():
                raise


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _import_openvino() -> Any:
    """Import OpenVINO without its telemetry, which otherwise forks at import."""
    os.environ.setdefault("CI", "true")
    import openvino
    import openvino.opset13

    return openvino
