"""Which interpreter runs the version of ovfuse that is installed now.

scripts/install makes an environment of its own for each version, in one directory,
where the link `current` leads to the newest: what runs keeps the files that it began
with. In every other installation the files are replaced where they are.
"""

import sys
from pathlib import Path
from typing import Final

__all__ = ["current_python"]

_MARK: Final = "ovfuse-installed"
"""A file that scripts/install leaves in an environment that is whole."""
_LINK: Final = "current"


def current_python(prefix: Path | None = None) -> str:
    """Return the path of the interpreter.

    Args:
        prefix: the environment of this process, if it is not `sys.prefix`.
    """
    own = prefix or Path(sys.prefix)
    link = own.with_name(_LINK)
    if (own / _MARK).is_file() and (link / _MARK).is_file():
        # Not by way of the link: later, it will lead to files of another version.
        return f"{link.resolve() / 'bin' / 'python3'}"
    return sys.executable
