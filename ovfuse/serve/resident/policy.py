"""Which files are worth keeping in memory.

Pure; any thread.
"""

from typing import Final

__all__ = ["ALWAYS", "AUTO", "CHOICES", "NEVER", "is_worth_it"]

AUTO, ALWAYS, NEVER = CHOICES = ("auto", "always", "never")

_SMALLEST: Final = 1024 * 1024
"""Below, a file is read faster than it is prepared."""
_WEIGHTS: Final = (
    *(b".bin", b".onnx", b".onnx_data", b".data", b".tflite", b".pb", b".blob"),
    *(b".pdiparams", b".safetensors", b".data-00000-of-00001"),
)
"""Of files that are read whole, at least once: OpenVINO maps or copies them."""


def is_worth_it(choice: str, path: bytes, size: int) -> bool:
    """Tell whether a file is to be resident.

    Args:
        choice: of the mount's options.
        path: of the file in the mount.
        size: of its plaintext, in bytes.
    """
    if choice == AUTO:
        return size >= _SMALLEST and path.endswith(_WEIGHTS)
    return choice == ALWAYS and size > 0
