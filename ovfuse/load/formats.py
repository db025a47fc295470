"""Which kind of model a path of the model is: by its name, held against its content.

The only place that knows suffixes and magic numbers. Nothing is guessed: what is not
known has to be loaded through a mount, by path.
"""

import enum
import re
from collections.abc import Iterable, Mapping
from typing import Final

from ovfuse.errors import LoadError
from ovfuse.load.source import Source, check_path
from ovfuse.quote import quoted

__all__ = [
    "MOUNT_HINT",
    "ModelKind",
    "kind_of",
    "saved_model_files",
    "sibling",
]

MOUNT_HINT: Final = "mount the sealed model and give OpenVINO the path"


class ModelKind(enum.Enum):
    """The formats that OpenVINO reads, and a blob that it compiled."""

    IR = "OpenVINO IR"
    ONNX = "ONNX"
    PADDLE = "Paddle"
    TFLITE = "TensorFlow Lite"
    FROZEN = "TensorFlow frozen graph"
    SAVED_MODEL = "TensorFlow SavedModel"
    BLOB = "compiled blob"


_SUFFIXES: Final = {
    ".xml": ModelKind.IR,
    ".onnx": ModelKind.ONNX,
    ".pdmodel": ModelKind.PADDLE,
    ".tflite": ModelKind.TFLITE,
    ".pb": ModelKind.FROZEN,
    ".blob": ModelKind.BLOB,
}

_SAVED_MODEL: Final = "saved_model.pb"
_SAVED_MODEL_FILES: Final = re.compile(
    r"saved_model\.pb|variables/variables\.(index|data-\d{5}-of-\d{5})"
)

_HEAD_SIZE: Final = 64
_TFLITE_MAGIC: Final = b"TFL3"  # at byte 4
_BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"
_FIRST_TAGS: Final = {
    # Protobuf: number of the first field, and that it is length-delimited or varint.
    ModelKind.ONNX: re.compile(rb"[\x08\x12\x1a\x22\x28\x32\x3a\x42\x72\xa2\xaa\xca]"),
    ModelKind.PADDLE: re.compile(rb"[\x0a\x22\x2a]"),
    ModelKind.FROZEN: re.compile(rb"[\x0a\x12\x18\x22\x2a]"),
}


def kind_of(source: Source, path: str) -> ModelKind:
    """Return the kind of model at a path: of a file, or of a SavedModel's directory.

    Raises:
        NotFoundError: there is nothing there.
        LoadError: not a kind that the loader knows, or the content is another's.
        DamagedError, CipherdirError: see `Source.open`.
    """
    if saved_model_files(source.files, path):
        return ModelKind.SAVED_MODEL
    check_path(source.files, path)
    name = path.rpartition("/")[2]
    kind = _SUFFIXES.get(name[name.rfind(".") :].lower()) if "." in name else None
    if kind is None:
        known = ", ".join(_SUFFIXES)
        raise LoadError(
            f"{quoted(path)} has no suffix of a model that the loader knows: {known}",
            hint=MOUNT_HINT,
        )
    with source.open(path) as file:
        head = file.read(_HEAD_SIZE) or b""
    if not _fits(kind, head):
        raise LoadError(f"{quoted(path)} is not what its name says: {kind.value}")
    return kind


def saved_model_files(files: Mapping[str, int], path: str) -> dict[str, str]:
    """Return the files of a SavedModel: their path in it, and in the model.

    Empty if the directory (`.` and the empty path: the root) holds none. Assets are
    left out: OpenVINO reads none.
    """
    directory = path.strip("/")
    prefix = "" if directory in {"", "."} else f"{directory}/"
    if prefix + _SAVED_MODEL not in files:
        return {}
    inside = (f.removeprefix(prefix) for f in files if f.startswith(prefix))
    return {name: prefix + name for name in _standard(inside)}


def _standard(names: Iterable[str]) -> list[str]:
    return [name for name in names if _SAVED_MODEL_FILES.fullmatch(name)]


def sibling(files: Mapping[str, int], path: str, suffix: str) -> str | None:
    """Return the file with the same name and another suffix, if there is one."""
    other = path[: path.rfind(".")] + suffix
    return other if other in files else None


def _fits(kind: ModelKind, head: bytes) -> bool:
    """Tell whether a file that begins so can be of this kind."""
    if kind is ModelKind.IR:
        return head.removeprefix(_BYTE_ORDER_MARK).lstrip().startswith(b"<")
    if kind is ModelKind.TFLITE:
        return head[4:8] == _TFLITE_MAGIC
    if kind in _FIRST_TAGS:
        return _FIRST_TAGS[kind].match(head) is not None
    return bool(head)
