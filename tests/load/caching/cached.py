"""An app with a compile cache, that loads a model through ovfuse and infers once.

    python -m tests.load.caching.cached DIRECTORY PATH [JSON]

Prints JSON: the digest of the outputs, whether they came from a cache, and warnings. A
crash is the exit status. The JSON that it is given are the keywords of `load`.
"""

from __future__ import annotations

import json
import os
import random as randomness
import subprocess
import sys
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from tests.support.infer import OPENVINO_CONFIG, digest, make_input
from tests.support.models import ROOT, _import_openvino
from tests.support.mounting import Home

WIDTH = 96
FOLDED = "folded.xml"
INTEGER = "integer.xml"
EXTERNAL = "external.onnx"
PATHS = (FOLDED, INTEGER, EXTERNAL)


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """What came of loading a model."""

    digest: str
    from_cache: bool
    warned: list[str] = field(default_factory=list)


def make_models(directory: Path, seed: int) -> Path:
    """Make models whose weights OpenVINO changes when it compiles, and others."""
    from tests.support.models import onnx_with_external_data

    openvino = _import_openvino()
    opset = openvino.opset13
    random = np.random.default_rng(seed)
    directory.mkdir()

    def weights(*shape: int) -> Any:
        return random.standard_normal(shape, dtype=np.float32)

    x = opset.parameter([-1, WIDTH], openvino.Type.f32)
    # As batch normalisation is: the scales are multiplied into the weights.
    y = opset.matmul(x, opset.constant(weights(WIDTH, WIDTH)), False, False)
    y = opset.multiply(y, opset.constant(weights(1, WIDTH)))
    sums = opset.add(
        opset.constant(weights(WIDTH, WIDTH)), opset.constant(weights(WIDTH, WIDTH))
    )
    y = opset.matmul(opset.relu(y), sums, False, False)
    _save(openvino, y, x, directory / FOLDED)

    x = opset.parameter([-1, WIDTH], openvino.Type.f32)
    small = random.integers(-127, 128, (WIDTH, WIDTH)).astype(np.int8)
    scaled = opset.multiply(
        opset.convert(opset.constant(small), openvino.Type.f32),
        opset.constant(weights(1, WIDTH)),
    )
    _save(openvino, opset.matmul(x, scaled, False, False), x, directory / INTEGER)
    onnx_with_external_data(directory, width=WIDTH)
    data = directory / f"{EXTERNAL}.data"
    data.write_bytes(weights(data.stat().st_size // 4).tobytes())
    return directory


def _save(openvino: Any, node: Any, parameter: Any, path: Path) -> None:
    model = openvino.Model([openvino.opset13.result(node)], [parameter], path.stem)
    for operation in model.get_ops():  # nobody else's file has these names
        operation.set_friendly_name(os.urandom(20).hex())
    openvino.save_model(model, path, compress_to_fp16=False)


def outputs_of(compiled: Any) -> str:
    """Infer once; return the digest of the outputs."""
    inputs = [
        make_input(
            number,
            [max(1, length.get_min_length()) for length in port.partial_shape],
            port.get_element_type().to_dtype(),
        )
        for number, port in enumerate(compiled.inputs)
    ]
    results = compiled(inputs)
    return digest([np.array(results[port]) for port in compiled.outputs])


def plain_outputs(path: Path) -> str:
    """Return what the plain file computes."""
    openvino = _import_openvino()
    compiled = openvino.Core().compile_model(path, "CPU", OPENVINO_CONFIG)
    return outputs_of(compiled)


def load(
    directory: Path | str,
    path: str,
    *,
    config: dict[str, Any] | None = None,
    core: dict[str, Any] | None = None,
    device: dict[str, Any] | None = None,
    device_name: str = "CPU",
) -> Loaded:
    """Open, compile, close and infer, in this process."""
    openvino = _import_openvino()
    import ovfuse

    made = openvino.Core()
    if core:
        made.set_property(core)
    if device:
        made.set_property("CPU", device)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with ovfuse.open_model(directory) as model:
            settings = OPENVINO_CONFIG | (config or {})
            compiled = model.compile_model(made, path, device_name, settings)
    return Loaded(
        digest=outputs_of(compiled),
        from_cache=bool(compiled.get_property("LOADED_FROM_CACHE")),
        warned=[str(w.message) for w in caught if w.category is UserWarning],
    )


def load_elsewhere(
    home: Home, directory: Path, path: str, *, prefix: tuple[str, ...] = (), **how: Any
) -> Loaded:
    """Do the same in a process of its own, which must not crash."""
    command = [*prefix, sys.executable, "-m", __name__, str(directory), path]
    done = subprocess.run(
        [*command, json.dumps(how)],
        env=home.environment | {"PYTHONPATH": str(ROOT)},
        cwd=home.directory,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, (done.returncode, done.stderr)
    return Loaded(**json.loads(done.stdout.splitlines()[-1]))


def files_in(place: Path) -> list[Path]:
    return sorted(path for path in place.rglob("*") if path.is_file())


def only_file(place: Path) -> Path:
    (path,) = files_in(place)
    return path


def changes(size: int) -> dict[str, Callable[[bytes], bytes]]:
    """Return what somebody may do to a file of this size."""
    generator = randomness.Random(7)

    def flipped(place: int) -> Callable[[bytes], bytes]:
        return lambda d: d[:place] + bytes([d[place] ^ 1]) + d[place + 1 :]

    places = [0, 3, 4, 20, 400, 500, size // 2, size - 1]
    places += [generator.randrange(size) for _ in range(4)]
    return {
        **{f"bit at {place}": flipped(place) for place in places},
        "empty": lambda _: b"",
        "short": lambda d: d[:100],
        "one byte less": lambda d: d[:-1],
        "one byte more": lambda d: d + b"\0",
        "without the last chunk": lambda d: d[: (size - 1000) // 16400 * 16400],
        "zeros": lambda d: bytes(len(d)),
        "huge header": lambda d: b"\xff\xff\xff\xff" + d[4:],
        "garbage": lambda d: os.urandom(len(d)),
    }


def header_of(content: bytes) -> bytes:
    """Return what stands in clear at the beginning of an entry."""
    return content[: 4 + int.from_bytes(content[:4], "big")]


if __name__ == "__main__":
    found = load(sys.argv[1], sys.argv[2], **json.loads(sys.argv[3]))
    sys.stdout.write(json.dumps(asdict(found)) + "\n")
