"""ONNX models with external data, made into one message without it.

OpenVINO looks for external data by path only. Here the tensors' bytes are moved into
the message, as `raw_data`; everything else stays byte for byte as it was. Field numbers
are those of onnx.proto.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from ovfuse.errors import LoadError
from ovfuse.load.formats import MOUNT_HINT
from ovfuse.load.protobuf import LENGTH_DELIMITED, WireError, fields, tag
from ovfuse.quote import quoted

__all__ = ["ExternalRange", "Inlined", "inline_external_data"]

MESSAGE_MAX_SIZE: Final = 2**31 - 1  # protobuf's own limit

_NESTING_MAX: Final = 64

_SUBMESSAGES: Final[Mapping[str, Mapping[int, str]]] = {
    "Model": {7: "Graph", 20: "TrainingInfo", 25: "Function"},
    "TrainingInfo": {1: "Graph", 2: "Graph"},
    "Function": {7: "Node", 11: "Attribute"},
    "Graph": {1: "Node", 5: "Tensor", 15: "SparseTensor"},
    "Node": {5: "Attribute"},
    "Attribute": {
        5: "Tensor",
        6: "Graph",
        10: "Tensor",
        11: "Graph",
        22: "SparseTensor",
        23: "SparseTensor",
    },
    "SparseTensor": {1: "Tensor", 2: "Tensor"},
}

_RAW_DATA, _EXTERNAL_DATA, _DATA_LOCATION = 9, 13, 14
_EXTERNAL: Final = 1
_KEY, _VALUE = 1, 2


@dataclass(frozen=True, slots=True)
class ExternalRange:
    """Bytes of another file of the model."""

    path: str
    offset: int
    size: int


@dataclass(slots=True)
class Inlined:
    """The message in pieces, so that no more than one copy of it is ever made.

    Attributes:
        pieces: bytes of the message, or where they are to be read from.
        size: of all pieces, in bytes.
        has_external_data: whether anything comes from another file.
    """

    pieces: list[memoryview | bytes | ExternalRange] = field(default_factory=list)
    size: int = 0
    has_external_data: bool = False

    def append(self, piece: memoryview | bytes) -> None:
        """Add bytes of the message."""
        self.pieces.append(piece)
        self.size += len(piece)

    def append_range(self, piece: ExternalRange) -> None:
        """Add bytes of another file."""
        self.pieces.append(piece)
        self.size += piece.size
        self.has_external_data = True

    def append_field(self, number: int, content: "Inlined") -> None:
        """Add a length-delimited field."""
        self.append(tag(number, content.size))
        self.pieces += content.pieces
        self.size += content.size
        self.has_external_data |= content.has_external_data

    def write(self, target: memoryview, load: Callable[[str], memoryview]) -> None:
        """Write the message into a buffer of its size.

        Args:
            target: the buffer.
            load: reads a file of the model; called once for each, one after the other.
        """
        ranges: dict[str, list[tuple[int, ExternalRange]]] = {}
        position = 0
        for piece in self.pieces:
            if isinstance(piece, ExternalRange):
                ranges.setdefault(piece.path, []).append((position, piece))
                position += piece.size
            else:
                target[position : position + len(piece)] = piece
                position += len(piece)
        for path, found in ranges.items():
            content = load(path)
            for start, piece in found:
                end = piece.offset + piece.size
                target[start : start + piece.size] = content[piece.offset : end]
            del content  # before the next one is there


def inline_external_data(
    message: memoryview, path: str, files: Mapping[str, int]
) -> Inlined:
    """Return the model with all tensors inside, to be written out.

    Args:
        message: the .onnx file.
        path: where it is in the model; external data lies beside or below it.
        files: the model's files and their sizes in bytes.

    Raises:
        LoadError: malformed, or external data that is not in the model, or too large.
    """
    inliner = _Inliner(path.rpartition("/")[0], files)
    try:
        inlined = inliner.message(message, "Model", 0)
    except WireError:
        raise LoadError(f"{quoted(path)} is not an ONNX model") from None
    if inlined.size > MESSAGE_MAX_SIZE:
        raise LoadError(
            f"with its external data {quoted(path)} has more than 2 GiB",
            hint=MOUNT_HINT,
        )
    return inlined


@dataclass(frozen=True, slots=True)
class _Inliner:
    directory: str
    files: Mapping[str, int]

    def message(self, message: memoryview, kind: str, depth: int) -> Inlined:
        if kind == "Tensor":
            return self._tensor(message)
        if depth > _NESTING_MAX:
            raise WireError("nested too deeply")
        inlined = Inlined()
        for part in fields(message):
            inside = _SUBMESSAGES[kind].get(part.number)
            if inside is None or part.wire_type != LENGTH_DELIMITED:
                inlined.append(part.raw)
            else:
                content = self.message(part.value, inside, depth + 1)
                if content.has_external_data:
                    inlined.append_field(part.number, content)
                else:
                    inlined.append(part.raw)
        return inlined

    def _tensor(self, message: memoryview) -> Inlined:
        inlined = Inlined()
        entries: dict[str, str] = {}
        location = 0
        for part in fields(message):
            if part.number == _EXTERNAL_DATA:
                entries.update([_entry(part.value)])
            elif part.number == _DATA_LOCATION:
                location = part.integer
            else:
                inlined.append(part.raw)
        if location != _EXTERNAL:
            unchanged = Inlined()
            unchanged.append(message)
            return unchanged
        content = Inlined()
        content.append_range(self._range(entries))
        inlined.append_field(_RAW_DATA, content)
        return inlined

    def _range(self, entries: Mapping[str, str]) -> ExternalRange:
        location = entries.get("location", "")
        path = self._resolve(location)
        size = self.files[path]
        offset = _number(entries.get("offset", "0"), location)
        length = _number(entries.get("length", str(max(0, size - offset))), location)
        if offset + length > size:
            raise LoadError(f"external data beyond the end of {quoted(path)}")
        return ExternalRange(path, offset, length)

    def _resolve(self, location: str) -> str:
        """Return the path in the model, which external data never leaves."""
        components = [c for c in location.split("/") if c != "."]
        if not location or location.startswith("/") or {"", ".."} & set(components):
            raise LoadError(f"external data outside of the model: {quoted(location)}")
        path = "/".join(filter(None, [self.directory, *components]))
        if path not in self.files:
            raise LoadError(f"external data is not in the model: {quoted(path)}")
        return path


def _entry(message: memoryview) -> tuple[str, str]:
    parts = {part.number: part.value for part in fields(message)}
    try:
        return _text(parts[_KEY]), _text(parts[_VALUE])
    except (KeyError, UnicodeDecodeError):
        raise WireError("a malformed entry of external data") from None


def _text(value: memoryview) -> str:
    return value.tobytes().decode("utf-8")


def _number(text: str, location: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 20):  # noqa: PLR2004 - 64 bits
        raise LoadError(f"a malformed place of external data in {quoted(location)}")
    return int(text)
