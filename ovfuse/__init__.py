"""ovfuse: encrypted model directories on disk, plaintext only in memory."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ovfuse.load import OpenModel, open_model

__all__ = ["OpenModel", "__version__", "open_model"]

__version__: str


def __getattr__(name: str) -> object:
    """Import what is asked for: every start of the command line pays for the rest."""
    if name == "__version__":
        from importlib.metadata import version  # noqa: PLC0415 - see above

        return version("ovfuse")
    if name in {"OpenModel", "open_model"}:
        from ovfuse import load  # noqa: PLC0415 - see above

        return getattr(load, name)
    raise AttributeError(f"module 'ovfuse' has no attribute {name!r}")
