"""The check of what `import-openssl` decrypts, which may be anything."""

import io
from xml import sax

from ovfuse.errors import NoUsableKeyError
from ovfuse.sealed.evidence import check_file
from tests.support.openssl import Content

_PATHS = ("m.xml", "m.onnx", "m.pdmodel", "m.tflite")
_XML = b"""<?xml version="1.0"?><net><layers><layer type="Const">
<data offset="16" size="40"/></layer></layers></net>"""


def contents() -> list[bytes]:
    """Return a number for the kind, and the content, of each."""
    return [
        b"\0" + _XML,
        b"\0" + _XML.replace(b"16", b"-16"),
        b"\0" + _XML.replace(b"<net", b"<!DOCTYPE net [<!ENTITY a 'b'>]><net"),
        b"\x01\x08\x0a\x12\x05tests\x3a\x02\x0a\x00\x42\x02\x10\x11",
        b"\x01\x08\x0a\x3a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
        b"\x02\x0a\x05block\x22\x00\x2a\x00",
        b"\x03\x1c\0\0\0TFL3",
        *(bytes([kind]) for kind in range(len(_PATHS))),
    ]


def check_content(data: bytes) -> bool:
    """What passes as XML is XML to others too; nothing needs less than no weights."""
    path = _PATHS[data[0] % len(_PATHS)] if data else _PATHS[0]
    try:
        end = check_file(path, Content(path, data[1:]))
    except NoUsableKeyError:
        return False
    assert end >= 0
    if path == "m.xml":
        source = sax.xmlreader.InputSource()
        source.setByteStream(io.BytesIO(data[1:]))
        source.setEncoding("utf-8")
        sax.make_parser().parse(source)  # noqa: S317 - no entity gets here
    else:
        assert end == 0
    return True
