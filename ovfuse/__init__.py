"""ovfuse: encrypted model directories on disk, plaintext only in memory."""

from importlib.metadata import version

__all__ = ["__version__"]

__version__ = version("ovfuse")
