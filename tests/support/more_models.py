"""Models in the formats that need no other package, made from seeds.

What models.py fetches or converts is there; these are small and written by hand.
"""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import numpy.typing as npt

from tests.support.models import _import_openvino
from tests.support.protobuf import message

WIDTH = 32

Matrix = npt.NDArray[np.float32]


def weights(seed: int = 3) -> Matrix:
    """A square matrix."""
    random = np.random.default_rng(seed)
    return random.standard_normal((WIDTH, WIDTH), dtype=np.float32)


def ir(path: Path, precision: str) -> Path:
    """Make an IR whose weights are f32, f16 or i8 (with scales), and an embedding.

    The embedding is what OpenVINO reads from the weights at every inference.
    """
    openvino = _import_openvino()
    opset = openvino.opset13
    ids = opset.parameter([-1], openvino.Type.i32, name="ids")
    table = _constant(precision, weights(4))
    node = opset.gather(table, ids, opset.constant(0))
    node = opset.matmul(
        node, _constant(precision, weights(5)), transpose_a=False, transpose_b=False
    )
    model = openvino.Model([opset.result(opset.relu(node))], [ids], path.stem)
    path.parent.mkdir(parents=True, exist_ok=True)
    openvino.save_model(model, path, compress_to_fp16=precision == "f16")
    return path


def _constant(precision: str, values: Matrix) -> object:
    openvino = _import_openvino()
    opset = openvino.opset13
    if precision != "i8":
        return opset.constant(values)
    scales = np.abs(values).max(axis=1, keepdims=True) / np.float32(127)
    quantised = opset.constant(np.rint(values / scales).astype(np.int8))
    floats = opset.convert(quantised, openvino.Type.f32)
    return opset.multiply(floats, opset.constant(scales))


def paddle(directory: Path, name: str = "paddle") -> Path:
    """Make a Paddle model, one matrix and a ReLU; return the .pdmodel."""
    values = weights(6)
    batch = message((1, 5), (2, -1), (2, WIDTH))
    variables = [
        _variable("feed", message((1, 9))),
        _variable("fetch", message((1, 10))),
        _variable("x", _dense(batch)),
        _variable(
            "w", _dense(message((1, 5), (2, WIDTH), (2, WIDTH))), persistent=True
        ),
        _variable("product", _dense(batch)),
        _variable("y", _dense(batch)),
    ]
    operators = [
        _operator("feed", {"X": "feed"}, {"Out": "x"}, _attribute("col", 0, 3, 0)),
        _operator(
            "matmul_v2",
            {"X": "x", "Y": "w"},
            {"Out": "product"},
            _attribute("trans_x", 6, 10, 0),
            _attribute("trans_y", 6, 10, 0),
        ),
        _operator("relu", {"X": "product"}, {"Out": "y"}),
        _operator("fetch", {"X": "y"}, {"Out": "fetch"}, _attribute("col", 0, 3, 0)),
    ]
    block = message(
        (1, 0), (2, 0), *((3, v) for v in variables), *((4, o) for o in operators)
    )
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"{name}.pdmodel"
    path.write_bytes(message((1, block), (4, message((1, 2_004_000)))))
    description = message((1, 5), (2, WIDTH), (2, WIDTH))
    header = struct.pack("<IQII", 0, 0, 0, len(description))
    parameters = header + description + values.tobytes()
    path.with_suffix(".pdiparams").write_bytes(parameters)
    return path


def _dense(tensor: bytes) -> bytes:
    return message((1, 7), (3, message((1, tensor), (2, 0))))


def _variable(name: str, kind: bytes, *, persistent: bool = False) -> bytes:
    return message((1, name), (2, kind), (3, int(persistent)))


def _operator(
    kind: str, inputs: dict[str, str], outputs: dict[str, str], *attributes: bytes
) -> bytes:
    return message(
        *((1, message((1, key), (2, value))) for key, value in inputs.items()),
        *((2, message((1, key), (2, value))) for key, value in outputs.items()),
        (3, kind),
        *((4, attribute) for attribute in attributes),
    )


def _attribute(name: str, kind: int, number: int, value: int) -> bytes:
    return message((1, name), (2, kind), (number, value))


def frozen(path: Path) -> Path:
    """Make a frozen graph of TensorFlow, one matrix and a ReLU."""
    single = message((6, 1))  # DT_FLOAT
    shape = message((2, message((1, -1))), (2, message((1, WIDTH))))
    square = message((2, message((1, WIDTH))), (2, message((1, WIDTH))))
    tensor = message((1, 1), (2, square), (4, weights(7).tobytes()))
    nodes = [
        _node("x", "Placeholder", [], {"dtype": single, "shape": message((7, shape))}),
        _node("w", "Const", [], {"dtype": single, "value": message((8, tensor))}),
        _node("product", "MatMul", ["x", "w"], {"T": single}),
        _node("y", "Relu", ["product"], {"T": single}),
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    versions = message((1, 1087))
    path.write_bytes(message(*((1, node) for node in nodes), (4, versions)))
    return path


def _node(
    name: str, kind: str, inputs: list[str], attributes: dict[str, bytes]
) -> bytes:
    return message(
        (1, name),
        (2, kind),
        *((3, i) for i in inputs),
        *((5, message((1, key), (2, value))) for key, value in attributes.items()),
    )
