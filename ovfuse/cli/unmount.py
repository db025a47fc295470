"""`ovfuse unmount`: take a mount down and wait for its daemon."""

from typing import Annotated

import typer

from ovfuse.cli.parameters import Mounted, seen_from_root

__all__ = ["unmount"]


def unmount(
    mountpoint: Mounted,
    lazy: Annotated[
        bool,
        typer.Option("--lazy", help="Even if in use: open files stay readable."),
    ] = False,
) -> None:
    """Unmount MOUNTPOINT and wait for its daemon.

    Also a stale one, whose daemon has died.
    """
    from ovfuse.serve.unmount import unmount as unmount_and_wait

    unmount_and_wait(seen_from_root(mountpoint), lazy=lazy)
