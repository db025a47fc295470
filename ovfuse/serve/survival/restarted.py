"""Whether this process was another version of the program before: see `reload`.

Imports next to nothing, since every command asks.
"""

import os
from typing import Final

__all__ = ["VARIABLE", "is_restarted", "take_pipe"]

VARIABLE: Final = "OVFUSE_KEPT"
"""Of the environment; it has the number of the pipe with the records."""


def is_restarted() -> bool:
    """Tell whether it was, and has not taken its records yet."""
    return VARIABLE in os.environ


def take_pipe() -> int:
    """Return the descriptor with the records, once."""
    return int(os.environ.pop("OVFUSE_KEPT"))
