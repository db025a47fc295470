"""The loader: from sealed bytes into OpenVINO's own memory, in the app's process.

`open_model` gives an `OpenModel`; ovfuse itself exports both. OpenVINO is imported when
something is loaded, not before.
"""

from ovfuse.load.model import OpenModel
from ovfuse.load.opening import open_model

__all__ = ["OpenModel", "open_model"]
