"""Files of a model in memory that OpenVINO owns.

An `openvino.Tensor` made with a type and a shape owns its memory on the C++ side, and
models made from it keep it alive, whatever Python drops. A tensor over a Python buffer
does not: using such a model after the buffer is gone crashes the process.
"""

import ctypes
import mmap
from typing import TYPE_CHECKING

from ovfuse.load.source import Source, check_path, no_memory
from ovfuse.memory import protect

if TYPE_CHECKING:
    import openvino

__all__ = ["allocate", "read_buffer", "read_tensor"]


def read_tensor(source: Source, path: str) -> "openvino.Tensor":
    """Return a whole file as a tensor of type u8 and shape [size in bytes].

    Raises:
        NotFoundError, IsADirectoryNodeError, DamagedError, CipherdirError: see
            `Source.read_into`.
        LoadError: it does not fit into memory.
    """
    tensor, memory = allocate(check_path(source.files, path))
    source.read_into(path, memory)
    return tensor


def read_buffer(source: Source, path: str) -> memoryview:
    """Return a whole file in memory of its own, marked for plaintext, for a moment.

    Raises:
        NotFoundError, IsADirectoryNodeError, DamagedError, CipherdirError: see
            `Source.read_into`.
        LoadError: it does not fit into memory.
    """
    size = check_path(source.files, path)
    try:
        memory = memoryview(mmap.mmap(-1, max(size, 1)))[:size]
    except (OSError, ValueError):
        raise no_memory(size) from None
    if size:
        protect(ctypes.addressof(ctypes.c_char.from_buffer(memory)), size)
    source.read_into(path, memory)
    return memory


def allocate(size: int) -> "tuple[openvino.Tensor, memoryview]":
    """Return a new tensor of `size` bytes, and its memory, marked for plaintext.

    Raises:
        LoadError: there is not so much memory.
    """
    import openvino  # noqa: PLC0415 - takes long; whoever gets here needs it

    try:
        tensor = openvino.Tensor(openvino.Type.u8, [size])
    except (RuntimeError, MemoryError):
        raise no_memory(size) from None
    protect(tensor.data.ctypes.data, size)
    return tensor, memoryview(tensor.data)
