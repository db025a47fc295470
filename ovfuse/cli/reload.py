"""`ovfuse reload`: have the program as it is installed now go on with a mount."""

from ovfuse.cli.parameters import Mounted, seen_from_root

__all__ = ["reload"]


def reload(mountpoint: Mounted) -> None:
    """Go on with MOUNTPOINT as the version of ovfuse that is installed now.

    Apps with open files notice a short pause and nothing else.
    """
    from ovfuse.serve.commands import reload as reload_mount

    reload_mount(seen_from_root(mountpoint))
