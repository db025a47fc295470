"""`ovfuse lock` and `ovfuse unlock`: take the keys from a mount, and give them back."""

from typing import Annotated

import typer

from ovfuse.cli.parameters import Identities, Mounted, seen_from_root
from ovfuse.cli.passphrase import ask_passphrase
from ovfuse.errors import NoUsableKeyError

__all__ = ["lock", "unlock"]


def lock(
    mountpoint: Mounted,
    force: Annotated[
        bool,
        typer.Option("--force", help="Even if in use: apps that map a file may crash."),
    ] = False,
) -> None:
    """Drop keys and plaintext of MOUNTPOINT, which stays mounted.

    Whoever opens or reads there is refused until it is unlocked.
    """
    from ovfuse.serve.commands import lock as lock_mount

    lock_mount(seen_from_root(mountpoint), force=force)


def unlock(mountpoint: Mounted, identity: Identities = None) -> None:
    """Find keys again for a MOUNTPOINT that is locked.

    Identities are looked for where the mount command did, unless some are named.
    """
    from ovfuse.serve.commands import unlock as unlock_mount

    identities = [path.absolute() for path in identity or []]
    mountpoint = seen_from_root(mountpoint)
    try:
        unlock_mount(mountpoint, identities)
    except NoUsableKeyError:
        passphrase = ask_passphrase(f"{mountpoint}")
        if passphrase is None:
            raise
        unlock_mount(mountpoint, identities, passphrase)
