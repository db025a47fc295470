"""`ovfuse reload`: have the program as it is installed now go on with a mount."""

import os
from pathlib import Path
from typing import Annotated

import typer

__all__ = ["reload"]


def reload(
    mountpoint: Annotated[
        Path, typer.Argument(readable=False, help="Where it is mounted.")
    ],
) -> None:
    """Go on with MOUNTPOINT as the version of ovfuse that is installed now.

    Apps with open files notice a short pause and nothing else.
    """
    from ovfuse.serve.commands import reload as reload_mount

    mountpoint = mountpoint.absolute()
    os.chdir("/")
    reload_mount(mountpoint)
