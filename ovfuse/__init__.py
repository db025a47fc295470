"""ovfuse: encrypted model directories on disk, plaintext only in memory."""

from importlib.metadata import version
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ovfuse.load import OpenModel, open_model

__all__ = ["OpenModel", "__version__", "open_model"]

__version__ = version("ovfuse")


def __getattr__(name: str) -> object:
    """Import the loader when it is asked for: the command line never does."""
    if name in {"OpenModel", "open_model"}:
        from ovfuse import load  # noqa: PLC0415 - see above

        return getattr(load, name)
    raise AttributeError(f"module 'ovfuse' has no attribute {name!r}")
