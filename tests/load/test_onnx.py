"""External data moves into the message, and nothing else changes; or it is refused."""

from __future__ import annotations

import contextlib
import struct
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from hypothesis import strategies

from ovfuse.errors import LoadError
from ovfuse.load import onnx as inlining
from ovfuse.load.onnx import inline_external_data
from ovfuse.load.protobuf import WireError, fields, tag, varint
from tests.support import models
from tests.support.protobuf import message

PATH = "a/model.onnx"
DATA = bytes(range(256)) * 4
FILES = {
    "a/model.onnx": 0,
    "a/w.data": len(DATA),
    "a/sub/w.data": 8,
    "a/etc/passwd": 8,
    "b/w.data": 8,
}


def inlined(data: bytes, path: str = PATH) -> bytes:
    found = inline_external_data(memoryview(data), path, FILES)
    target = memoryview(bytearray(found.size))
    found.write(target, lambda path: memoryview(DATA[: FILES[path]]))
    return bytes(target)


def external_tensor(**entries: str) -> bytes:
    """A TensorProto whose bytes are elsewhere."""
    return message(
        (1, 4),
        (2, 1),
        (8, "weight"),
        *((13, message((1, key), (2, value))) for key, value in entries.items()),
        (14, 1),
    )


def graph(tensor: bytes) -> bytes:
    return message((7, message((2, "g"), (5, tensor))))


def node(attribute: bytes) -> bytes:
    return message((7, message((1, message((4, "Op"), (5, attribute))))))


def test_bytes_take_the_place_of_where_they_are() -> None:
    tensor = external_tensor(location="w.data", offset="16", length="32")

    expected = message((1, 4), (2, 1), (8, "weight"), (9, DATA[16:48]))
    assert inlined(graph(tensor)) == graph(expected)


def test_without_length_it_is_the_rest() -> None:
    tensor = external_tensor(location="./sub/w.data", offset="3")

    expected = message((1, 4), (2, 1), (8, "weight"), (9, DATA[3:8]))
    assert inlined(graph(tensor)) == graph(expected)


TENSOR = external_tensor(location="w.data", length="4")
INSIDE = message((1, 4), (2, 1), (8, "weight"), (9, DATA[:4]))


@pytest.mark.parametrize(
    "wrap",
    [
        lambda t: node(message((1, "value"), (5, t))),
        lambda t: node(message((1, "values"), (10, t), (10, t))),
        lambda t: node(message((1, "then"), (6, message((5, t))))),
        lambda t: node(message((1, "bodies"), (11, message((5, t))))),
        lambda t: node(message((1, "sparse"), (22, message((1, t), (2, t))))),
        lambda t: node(message((1, "sparse"), (23, message((1, t))))),
        lambda t: message((7, message((15, message((1, t), (2, t)))))),
        lambda t: message((20, message((1, message((5, t)))))),
        lambda t: message((25, message((7, message((5, message((5, t)))))))),
        lambda t: message((25, message((11, message((5, t)))))),
    ],
    ids=range(10),
)
def test_wherever_a_tensor_can_be(wrap: Any) -> None:
    assert inlined(wrap(TENSOR)) == wrap(INSIDE)


def test_what_has_none_stays_as_it_is() -> None:
    unknown = b"\x9d\x06\x01\x02\x03\x04" + message((99, "future"), (98, 2**63))
    tensor = message((1, 4), (9, DATA), (14, 0))
    data = message((1, 8), (7, message((5, tensor), (1, b"")))) + unknown

    found = inline_external_data(memoryview(data), PATH, FILES)

    assert not found.has_external_data
    assert inlined(data) == data


@pytest.mark.parametrize(
    "location",
    ["../b/w.data", "/etc/passwd", "sub/../w.data", "", "sub//w.data", "w.data/", ".."],
)
def test_outside_of_the_model_is_refused(location: str) -> None:
    with pytest.raises(LoadError, match="outside of the model"):
        inlined(graph(external_tensor(location=location)))


@pytest.mark.parametrize("location", ["nonesuch", ".", "sub"])
def test_what_is_not_in_the_model_is_refused(location: str) -> None:
    with pytest.raises(LoadError, match="not in the model"):
        inlined(graph(external_tensor(location=location)))


@pytest.mark.parametrize(
    "entries",
    [
        {"offset": "1020", "length": "8"},
        {"offset": "2000"},
        {"length": "1025"},
        {"offset": "-1"},
        {"length": "x"},
        {"offset": "9" * 30},
        {"offset": "\u0661"},
    ],
)
def test_wrong_places_are_refused(entries: dict[str, str]) -> None:
    with pytest.raises(LoadError):
        inlined(graph(external_tensor(location="w.data", **entries)))


def test_too_large_says_to_mount(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inlining, "MESSAGE_MAX_SIZE", 100)

    with pytest.raises(LoadError, match="2 GiB") as caught:
        inlined(graph(external_tensor(location="w.data")))
    assert "mount" in caught.value.hint


def test_malformed_is_refused() -> None:
    deep = b""
    for _ in range(40):
        deep = message((1, message((5, message((6, deep))))))
    for data in (b"\x3a", b"\x3a\x05ab", b"\x3b", b"\x02\x00", message((7, deep))):
        with pytest.raises(LoadError, match="not an ONNX model"):
            inlined(data)
    with pytest.raises(LoadError, match="not an ONNX model"):
        inlined(graph(message((13, message((1, "location"))), (14, 1))))


@hypothesis.given(strategies.binary(max_size=200))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    try:
        parts = b"".join(bytes(part.raw) for part in fields(memoryview(data)))
    except WireError:
        return
    assert parts == data
    with contextlib.suppress(LoadError):
        inline_external_data(memoryview(data), PATH, FILES)


@hypothesis.given(strategies.integers(min_value=0, max_value=2**64 - 1))
def test_numbers_are_read_as_written(value: int) -> None:
    (field,) = fields(memoryview(varint(1 << 3) + varint(value)))

    assert field.integer == value
    assert tag(1, 5) == b"\x0a\x05"


@pytest.mark.openvino
def test_onnx_itself_agrees(tmp_path: Path) -> None:
    import onnx

    path = models.onnx_with_external_data(tmp_path)
    data = path.with_name("external.onnx.data").read_bytes()
    files = {"external.onnx": path.stat().st_size, "external.onnx.data": len(data)}
    found = inline_external_data(memoryview(path.read_bytes()), "external.onnx", files)
    target = memoryview(bytearray(found.size))
    found.write(target, lambda _: memoryview(data))

    model = onnx.load_from_string(bytes(target))
    onnx.checker.check_model(model, full_check=True)
    for tensor, expected in zip(
        model.graph.initializer, onnx.load(path).graph.initializer, strict=True
    ):
        assert onnx.numpy_helper.to_array(tensor).tobytes() == (
            onnx.numpy_helper.to_array(expected).tobytes()
        )
        assert struct.calcsize("f") * 512 * 512 == len(tensor.raw_data)
