"""The choice between the engines; the one that is chosen is imported only then.

Used by the lifecycle, in the process that serves. A machine without libfuse can do
all but mount by it, so a missing library is an error of such a mount alone.
"""

import os

from ovfuse.errors import MountFailedError
from ovfuse.quote import printable
from ovfuse.serve.engine import Engine, Setup

__all__ = ["make_engine"]


def make_engine(setup: Setup) -> Engine:
    """Return the engine that the options name.

    Raises:
        MountFailedError: what it needs is not installed.
    """
    if setup.options.engine == "kernel":
        from ovfuse.serve.kernel import KernelEngine  # noqa: PLC0415  see above

        return KernelEngine(setup)
    # mfusepy takes libfuse 2 where it finds one, unless it is told.
    os.environ.setdefault("FUSE_LIBRARY_NAME", "fuse3")
    try:
        from ovfuse.serve.libfuse import LibfuseEngine  # noqa: PLC0415  see above
    except (ImportError, OSError, AttributeError) as error:
        raise MountFailedError(
            f"libfuse 3 cannot be used: {printable(str(error))}",
            hint="install it: apt install fuse3, or your system's equivalent",
        ) from error
    return LibfuseEngine(setup)
