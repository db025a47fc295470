"""Each format in the way that OpenVINO takes it: from memory, or from memory files.

IR and Paddle come from tensors; what is parsed and copied anyway (ONNX), and what
OpenVINO takes by path alone, comes from memory files. Either way everything is
authenticated before OpenVINO is called, and nothing has to be kept alive afterwards.
"""

from contextlib import ExitStack
from typing import TYPE_CHECKING

from ovfuse.errors import LoadError
from ovfuse.load.formats import ModelKind, kind_of, saved_model_files, sibling
from ovfuse.load.memory_files import MemoryFile, linked
from ovfuse.load.onnx import inline_external_data
from ovfuse.load.source import Source
from ovfuse.load.tensors import read_buffer, read_tensor
from ovfuse.quote import quoted

if TYPE_CHECKING:
    import openvino

__all__ = ["read_model"]


def read_model(source: Source, core: "openvino.Core", path: str) -> "openvino.Model":
    """Read a model; see `OpenModel.read_model`."""
    kind = kind_of(source, path)
    if kind is ModelKind.BLOB:
        raise LoadError(
            f"{quoted(path)} is a compiled blob", hint="use import_model for it"
        )
    if kind is ModelKind.IR:
        return _read_with_weights(source, core, path, ".bin")
    if kind is ModelKind.PADDLE:
        return _read_with_weights(source, core, path, ".pdiparams")
    if kind is ModelKind.ONNX:
        return _read_onnx(source, core, path)
    if kind is ModelKind.SAVED_MODEL:
        return _read_linked(
            source, core, saved_model_files(source.files, path), as_directory=True
        )
    name = "model.tflite" if kind is ModelKind.TFLITE else "model.pb"
    return _read_linked(source, core, {name: path})


def _read_with_weights(
    source: Source, core: "openvino.Core", path: str, suffix: str
) -> "openvino.Model":
    """Read topology and weights from tensors; the model keeps the weights alive."""
    weights = sibling(source.files, path, suffix)
    topology = read_tensor(source, path).data.tobytes()
    if weights is None:
        return core.read_model(topology)
    return core.read_model(topology, read_tensor(source, weights))


def _read_onnx(source: Source, core: "openvino.Core", path: str) -> "openvino.Model":
    with ExitStack() as files:
        file = files.enter_context(_memory_file(source, path))
        whole = _inlined(source, file, path)
        if whole is not None:
            file.close()
            file = files.enter_context(whole)
        return core.read_model(file.path)


def _inlined(source: Source, file: MemoryFile, path: str) -> MemoryFile | None:
    """Return the model with its external data inside; None if it has none."""
    message = inline_external_data(file.view(), path, source.files)
    if not message.has_external_data:
        return None
    return MemoryFile(
        message.size,
        lambda memory: message.write(memory, lambda data: read_buffer(source, data)),
    )


def _read_linked(
    source: Source,
    core: "openvino.Core",
    names: dict[str, str],
    *,
    as_directory: bool = False,
) -> "openvino.Model":
    """Read files by paths that end as OpenVINO expects it.

    Args:
        source: of the files.
        core: of the app.
        names: what each file is to be called, and its path in the model.
        as_directory: whether OpenVINO is given the directory, or the only file.
    """
    with ExitStack() as stack:
        files = {
            name: stack.enter_context(_memory_file(source, path))
            for name, path in names.items()
        }
        root = stack.enter_context(linked(files))
        (first, *_) = names
        return core.read_model(root if as_directory else root / first)


def _memory_file(source: Source, path: str) -> MemoryFile:
    return MemoryFile(source.files[path], lambda memory: source.read_into(path, memory))
