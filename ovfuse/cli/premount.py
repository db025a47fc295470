"""`ovfuse premount`: mount for a unit that may not."""

from ovfuse.cli.parameters import Cipherdir, MountOptions, Mountpoint

__all__ = ["premount"]


def premount(
    cipherdir: Cipherdir, mountpoint: Mountpoint, option: MountOptions = None
) -> None:
    """Mount for a sandboxed unit of systemd, which then serves.

    The unit runs it before its start, with the options that it mounts with.
    """
    from ovfuse.serve.premount import premount as mount_before

    mount_before(cipherdir, mountpoint, option or [])
