"""Environment variables by which OpenVINO writes models to disk, in plaintext.

Read at every load; names only are ever shown. Which ones a build honours differs:
release builds know few, builds for debugging many.
"""

import os
import re
from typing import Final

from ovfuse.errors import LoadError

__all__ = ["check_dumps", "dump_variables"]

_NAMES: Final = re.compile(
    r"(OV|OPENVINO|NPUW)_[A-Z0-9_]*"
    r"(DUMP|SERIALIZE|VISUALIZE_TRACING|EXEC_GRAPH_PATH)[A-Z0-9_]*"
    r"|OPENVINO_HETERO_VISUALIZE"
)
_OFF: Final = frozenset({"", "0", "false", "off"})


def dump_variables() -> list[str]:
    """Return the names of those that are set, sorted."""
    return sorted(
        name
        for name, value in os.environ.items()
        if _NAMES.fullmatch(name) and value.lower() not in _OFF
    )


def check_dumps(*, allowed: bool = False) -> None:
    """Refuse to load while one is set, unless the app allows it.

    Raises:
        LoadError: it names them.
    """
    if not allowed and (names := dump_variables()):
        raise LoadError(
            f"OpenVINO would write the model to disk: {', '.join(names)} set",
            hint="unset it, or open the model with allow_dumps=True",
        )
