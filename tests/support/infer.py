"""Run one inference on the CPU and print a digest of the outputs.

    python infer.py MODEL_PATH [--runtime openvino|onnxruntime] [--out FILE.npz]

An app as anyone would write it: it is given a path, and knows nothing of ovfuse. The
inputs come from fixed seeds. Run twice, it prints the same digest.
"""

from __future__ import annotations

import argparse
import sys
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

# Measured: OpenVINO repeats its results bit for bit without any of this as well. But
# left alone it takes bf16 where the CPU has it, so another CPU gives another result,
# and nobody promises the order of additions when threads share a sum.
OPENVINO_CONFIG = {
    "INFERENCE_PRECISION_HINT": "f32",
    "INFERENCE_NUM_THREADS": 1,
    "NUM_STREAMS": "1",
}


def make_input(number: int, shape: list[int], dtype: np.dtype[Any]) -> Array:
    """Return the values for input `number`, the same on every run."""
    random = np.random.default_rng(number)
    if np.issubdtype(dtype, np.floating):
        return random.standard_normal(shape).astype(dtype)
    return random.integers(0, 2, shape).astype(dtype)


def run_openvino(path: Path) -> list[Array]:
    """Load by path as OpenVINO's guide does; a blob can only be imported."""
    import openvino

    core = openvino.Core()
    if path.suffix == ".blob":
        compiled = core.import_model(path.read_bytes(), "CPU", OPENVINO_CONFIG)
    else:
        compiled = core.compile_model(core.read_model(path), "CPU", OPENVINO_CONFIG)
    inputs = [
        make_input(
            number,
            # A dynamic dimension (here: the batch) becomes as small as it may be.
            [max(1, dimension.get_min_length()) for dimension in port.partial_shape],
            port.get_element_type().to_dtype(),
        )
        for number, port in enumerate(compiled.inputs)
    ]
    results = compiled(inputs)
    return [np.array(results[port]) for port in compiled.outputs]


def run_onnxruntime(path: Path) -> list[Array]:
    """Load by path into onnxruntime."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        path, options, providers=["CPUExecutionProvider"]
    )
    dtypes: dict[str, np.dtype[Any]] = {
        "tensor(float)": np.dtype(np.float32),
        "tensor(float16)": np.dtype(np.float16),
        "tensor(int32)": np.dtype(np.int32),
        "tensor(int64)": np.dtype(np.int64),
    }
    inputs = {
        port.name: make_input(
            number,
            # A dynamic dimension is a name or None.
            [length if isinstance(length, int) else 1 for length in port.shape],
            dtypes[port.type],
        )
        for number, port in enumerate(session.get_inputs())
    }
    return [np.asarray(output) for output in session.run(None, inputs)]


def digest(outputs: list[Array]) -> str:
    """Return the SHA-256 of all outputs: type, shape and every bit of the values."""
    state = sha256()
    for output in outputs:
        state.update(f"{output.dtype} {output.shape}\n".encode())
        state.update(np.ascontiguousarray(output).tobytes())
    return state.hexdigest()


def main() -> int:
    """Parse, run, print."""
    parser = argparse.ArgumentParser(description="run one inference on the CPU")
    parser.add_argument("model", type=Path)
    parser.add_argument(
        "--runtime", choices=["openvino", "onnxruntime"], default="openvino"
    )
    parser.add_argument("--out", type=Path, help="save the outputs as .npz")
    arguments = parser.parse_args()
    run = run_openvino if arguments.runtime == "openvino" else run_onnxruntime
    outputs = run(arguments.model)
    if arguments.out:
        np.savez(arguments.out, *outputs)
    sys.stdout.write(digest(outputs) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
