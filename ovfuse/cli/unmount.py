"""`ovfuse unmount`: take a mount down and wait for its daemon."""

import os
from pathlib import Path
from typing import Annotated

import typer

__all__ = ["unmount"]


def unmount(
    mountpoint: Annotated[
        Path, typer.Argument(readable=False, help="Where it is mounted.")
    ],
    lazy: Annotated[
        bool,
        typer.Option("--lazy", help="Even if in use: open files stay readable."),
    ] = False,
) -> None:
    """Unmount MOUNTPOINT and wait for its daemon.

    Also a stale one, whose daemon has died.
    """
    from ovfuse.serve.unmount import unmount as unmount_and_wait

    mountpoint = mountpoint.absolute()
    os.chdir("/")  # from inside, this process itself would keep it busy
    unmount_and_wait(mountpoint, lazy=lazy)
