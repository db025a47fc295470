"""Whether decrypted files are what their names say: the evidence for a key.

For ciphers that authenticate nothing. Padding alone accepts one wrong key in 256;
what is asked for here does not come about by chance. No cryptography here.
"""

import logging
import re
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from pathlib import PurePosixPath
from typing import Final, Protocol
from xml.parsers import expat

from ovfuse.errors import NoUsableKeyError, SourceError
from ovfuse.quote import quoted

__all__ = ["Decrypted", "Plaintext", "check_contents", "check_file"]

_STEP_SIZE: Final = 64 * 1024
_NUMBER: Final = re.compile(r"[0-9]{1,18}")
_VARINT, _LENGTH = 0, 2
_VARINT_MAX_SIZE: Final = 10

# Per format, the wire type of each field of the outermost message, and which must be.
_ONNX: Final = {1: _VARINT, 5: _VARINT} | dict.fromkeys(
    (2, 3, 4, 6, 7, 8, 14, 20, 25), _LENGTH
)
_ONNX_NEEDED: Final = {1, 7}  # ir_version, graph
_PADDLE: Final = dict.fromkeys((1, 4, 5), _LENGTH)
_PADDLE_NEEDED: Final = {1}  # blocks

_XML_START: Final = re.compile(rb"<\?xml version=[\"']1")
_TFLITE_MAGIC: Final = b"TFL3"

_log = logging.getLogger(__name__)


class Plaintext(Protocol):
    """An open file, decrypted as it is read.

    Attributes:
        name: for messages.
        size: in bytes.
    """

    name: str
    size: int

    def read_at(self, offset: int, size: int) -> bytes:
        """Return up to `size` bytes from `offset`; fewer at the end."""


class Decrypted(Protocol):
    """A file that can be opened; `path` and `size` are those of the plaintext."""

    @property
    def path(self) -> str: ...  # noqa: D102 - said above
    @property
    def size(self) -> int: ...  # noqa: D102 - said above
    def plaintext(self) -> AbstractContextManager[Plaintext]: ...  # noqa: D102 - said above


def check_contents(files: Iterable[Decrypted], others: Iterable[str]) -> None:
    """Check every file whose kind can be known, and every .bin against its .xml.

    Args:
        files: to be checked.
        others: paths of files that were not encrypted.

    Raises:
        NoUsableKeyError: a file is not what its name says.
        SourceError: a .bin has no .xml or is too short for it, or is missing.
    """
    ends: dict[str, int] = {}
    weights: dict[str, int] = {}
    known = False
    for file in files:
        kind, stem = _kind(file.path), str(PurePosixPath(file.path).with_suffix(""))
        if kind == ".bin":
            weights[stem] = file.size
        elif kind in _CHECKS:
            with file.plaintext() as plaintext:
                end = check_file(file.path, plaintext)
            if kind == ".xml":
                ends[stem] = end
            known = True
    _check_weights(ends, weights, {path for path in others if _kind(path) == ".bin"})
    if not known:
        _log.warning(
            "no file here shows whether the key is right: only the padding was "
            "looked at, and one wrong key in 256 passes that"
        )


def _check_weights(
    ends: Mapping[str, int], weights: Mapping[str, int], others: set[str]
) -> None:
    for stem, size in weights.items():
        if stem not in ends:
            raise SourceError(
                f"there is no {quoted(f'{stem}.xml')} for {quoted(f'{stem}.bin')}, "
                "and by itself nothing shows whether it was decrypted rightly",
                hint="--map ENC=NAME says which file is which",
            )
        if size < ends[stem]:
            raise SourceError(
                f"{quoted(f'{stem}.bin')} has {size} bytes, and "
                f"{quoted(f'{stem}.xml')} needs {ends[stem]}"
            )
    for stem, end in ends.items():
        if end and stem not in weights and f"{stem}.bin" not in others:
            raise SourceError(
                f"{quoted(f'{stem}.xml')} needs weights, and there is no "
                f"{quoted(f'{stem}.bin')}",
                hint="--map ENC=NAME says which file is which",
            )


def check_file(path: str, plaintext: Plaintext) -> int:
    """Check a file by what its name says it is; others pass.

    Returns:
        How many bytes of weights it needs: 0 unless it is an IR.

    Raises:
        NoUsableKeyError: it is something else.
    """
    check = _CHECKS.get(_kind(path))
    return check(plaintext) if check else 0


def _kind(path: str) -> str:
    return PurePosixPath(path).suffix.lower()


def _refusal(plaintext: Plaintext, what: str) -> NoUsableKeyError:
    return NoUsableKeyError(
        f"what {quoted(plaintext.name)} decrypts to is not {what}",
        hint="the key, IV or password is another one, or the file is damaged",
    )


class _WeightsScan:
    """Follows an IR's elements, and keeps the largest offset plus size of them."""

    def __init__(self) -> None:
        self.end = 0
        self._layer = ""

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        if tag == "layer":
            self._layer = attributes.get("type", "")
        elif tag == "data" and self._layer == "Const":
            place = [attributes.get(key, "0") for key in ("offset", "size")]
            if not all(map(_NUMBER.fullmatch, place)):
                raise ValueError("a place that is no number")
            self.end = max(self.end, sum(map(int, place)))


def _refuse_doctype(*_: object) -> None:
    raise ValueError("a document type: entities could be defined in it")


def _check_xml(plaintext: Plaintext) -> int:
    scan = _WeightsScan()
    parser = expat.ParserCreate("UTF-8")  # whatever the document says
    parser.StartElementHandler = scan.start
    parser.StartDoctypeDeclHandler = _refuse_doctype
    # In CBC a wrong IV spoils the first 16 bytes alone: `<?yml ...` would pass as well.
    head = plaintext.read_at(0, 16)
    if head.startswith(b"<?") and not _XML_START.match(head):
        raise _refusal(plaintext, "XML")
    try:
        for offset in range(0, plaintext.size, _STEP_SIZE):
            parser.Parse(plaintext.read_at(offset, _STEP_SIZE), False)
        parser.Parse(b"", True)
    except (expat.ExpatError, ValueError):
        raise _refusal(plaintext, "XML") from None
    return scan.end


def _check_tflite(plaintext: Plaintext) -> int:
    if plaintext.read_at(4, len(_TFLITE_MAGIC)) != _TFLITE_MAGIC:
        raise _refusal(plaintext, "TFLite")
    return 0


def _check_onnx(plaintext: Plaintext) -> int:
    return _check_protobuf(plaintext, _ONNX, _ONNX_NEEDED, "ONNX")


def _check_paddle(plaintext: Plaintext) -> int:
    return _check_protobuf(plaintext, _PADDLE, _PADDLE_NEEDED, "a Paddle program")


def _check_protobuf(
    plaintext: Plaintext, fields: Mapping[int, int], needed: set[int], what: str
) -> int:
    """Walk from field to field of the outermost message, to its very end."""
    seen = set()
    offset = 0
    while offset < plaintext.size:
        head = plaintext.read_at(offset, 2 * _VARINT_MAX_SIZE)
        try:
            tag, used = _varint(head, 0)
            value, used = _varint(head, used)
        except ValueError:
            raise _refusal(plaintext, what) from None
        number, wire_type = tag >> 3, tag & 7
        # A field that is unknown may be of a newer version of the format.
        if number == 0 or wire_type != fields.get(number, _LENGTH):
            raise _refusal(plaintext, what)
        seen.add(number)
        offset += used + (value if wire_type == _LENGTH else 0)
    if offset != plaintext.size or not needed <= seen:
        raise _refusal(plaintext, what)
    return 0


def _varint(data: bytes, start: int) -> tuple[int, int]:
    """Return a number and where it ends.

    Raises:
        ValueError: it does not end.
    """
    value = 0
    for position, byte in enumerate(data[start : start + _VARINT_MAX_SIZE]):
        value |= (byte & 0x7F) << (7 * position)
        if byte < 0x80:  # noqa: PLR2004 - the bit that says that more follows
            return value, start + position + 1
    raise ValueError("a number without an end")


_CHECKS: Final[Mapping[str, Callable[[Plaintext], int]]] = {
    ".onnx": _check_onnx,
    ".pdmodel": _check_paddle,
    ".tflite": _check_tflite,
    ".xml": _check_xml,
}
