"""What decrypted content must be like: kinds of files, and what is none of them."""

import logging
import random

import onnx
import pytest

from ovfuse.errors import NoUsableKeyError, SourceError
from ovfuse.sealed.evidence import check_contents, check_file
from tests.support.openssl import Content

GRAPH = onnx.helper.make_graph(
    [onnx.helper.make_node("Relu", ["x"], ["y"])],
    "graph",
    [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1])],
    [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [1])],
)
MODEL = onnx.helper.make_model(
    GRAPH, producer_name="tests", opset_imports=[onnx.helper.make_opsetid("", 17)]
)
ONNX = MODEL.SerializeToString()
TFLITE = b"\x1c\0\0\0TFL3" + bytes(100)
PADDLE = b"\x0a\x05block\x22\x00\x2a\x00"
XML = b"""<?xml version="1.0"?>
<net name="n" version="11"><layers>
 <layer id="0" type="Const"><data element_type="f32" offset="0" size="64"/></layer>
 <layer id="1" type="If"><body><layers>
  <layer id="0" type="Const"><data offset="64" size="36"/></layer>
 </layers></body></layer>
 <layer id="2" type="LRN"><data offset="900" size="5"/></layer>
</layers></net>
"""
GOOD = {
    "model.onnx": ONNX,
    "model.tflite": TFLITE,
    "model.pdmodel": PADDLE,
    "model.xml": XML,
    "MODEL.XML": XML,
}


@pytest.mark.parametrize("path", GOOD)
def test_what_it_should_be_passes(path: str) -> None:
    found = check_file(path, Content(path, GOOD[path]))

    assert found == (100 if path.lower().endswith(".xml") else 0)


@pytest.mark.parametrize("path", GOOD)
@pytest.mark.parametrize("other", [*GOOD, "noise", "zeros", "nothing"])
def test_something_else_does_not(path: str, other: str) -> None:
    noise = random.Random(1).randbytes(5000)
    data = (GOOD | {"noise": noise, "zeros": bytes(64), "nothing": b""})[other]
    if data == GOOD[path]:
        return

    with pytest.raises(NoUsableKeyError, match=r"'\w+\.\w+\.enc' decrypts to"):
        check_file(path, Content(path, data))


BAD_XML = {
    "cut": XML[:-10],
    "longer": XML + b"x",
    "another version": XML.replace(b'"1.0"', b'"0.0"'),
    "document type": XML.replace(b"<net", b"<!DOCTYPE net [<!ENTITY a 'b'>]><net"),
    "offset that is no number": XML.replace(b'"64"', b'"-64"'),
    "huge offset": XML.replace(b'"64"', b'"' + b"9" * 5000 + b'"'),
    "not UTF-8": XML.replace(b'name="n"', b'name="\xff"'),
    "another declaration": XML.replace(b"<?xml", b"<?yml"),
    "two roots": XML + b"<net/>",
}


@pytest.mark.parametrize("case", BAD_XML)
def test_bad_xml(case: str) -> None:
    with pytest.raises(NoUsableKeyError):
        check_file("model.xml", Content("model.xml", BAD_XML[case]))


def test_constant_may_be_without_a_place() -> None:
    data = XML.replace(b' offset="64" size="36"', b"")

    assert check_file("model.xml", Content("model.xml", data)) == 64


def test_encoding_that_is_declared_decides_nothing() -> None:
    data = XML.replace(b'"1.0"', b'"1.0" encoding="rot13"')

    assert check_file("model.xml", Content("model.xml", data)) == 100


@pytest.mark.parametrize("path", ["model.onnx", "model.pdmodel"])
def test_every_cut_of_a_message_is_noticed_or_between_its_fields(path: str) -> None:
    data = GOOD[path]
    passed = []
    for size in range(len(data)):
        try:
            check_file(path, Content(path, data[:size]))
        except NoUsableKeyError:
            continue
        passed.append(size)

    assert len(passed) < 4


def test_unknown_field_of_a_newer_format_passes() -> None:
    assert check_file("m.onnx", Content("m.onnx", ONNX + b"\xfa\x06\x03new")) == 0


@pytest.mark.parametrize(
    "more", [b"\x00", b"\x02\x00", b"\x0d1234", b"\xff" * 20, b"\x3a\x7f", b"\x80"]
)
def test_field_that_cannot_be_is_refused(more: bytes) -> None:
    with pytest.raises(NoUsableKeyError):
        check_file("m.onnx", Content("m.onnx", ONNX + more))


def test_weights_belong_to_their_xml() -> None:
    xml, weights = Content("a/m.xml", XML), Content("a/m.bin", bytes(100))
    check_contents([weights, xml], [])
    check_contents([xml], ["a/m.bin"])

    for wrong in (
        [xml],  # no weights
        [weights],  # no .xml
        [xml, Content("m.bin", bytes(100))],  # elsewhere
        [xml, Content("a/m.bin", bytes(99))],  # too short
        [weights, xml, Content("a/n.bin", b"1")],  # one without
        [weights, Content("a/m.onnx", ONNX)],  # another kind proves nothing
    ):
        with pytest.raises(SourceError):
            check_contents(wrong, [])


def test_nothing_that_shows_the_key_is_warned_about(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.WARNING, "ovfuse")
    check_contents([Content("m.onnx", ONNX), Content("labels.txt", b"x")], [])
    assert not caplog.records

    check_contents([Content("labels.txt", b"x")], [])
    assert "one wrong key in 256" in caplog.text
