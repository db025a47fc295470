"""`ovfuse lock` and `ovfuse unlock`: take the keys from a mount, and give them back."""

from pathlib import Path
from typing import Annotated

import typer

from ovfuse.cli.parameters import Identities, Mounted, seen_from_root
from ovfuse.cli.passphrase import ask_passphrase
from ovfuse.errors import NoUsableKeyError, UsageError

__all__ = ["lock", "unlock"]

_ASKED = "passphrase:"


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

    words = identity or []
    identities = _for_the_mount(words)
    mountpoint = seen_from_root(mountpoint)
    asks_first = _ASKED in words
    passphrase = ask_passphrase(f"{mountpoint}") if asks_first else None
    try:
        unlock_mount(mountpoint, identities, passphrase)
    except NoUsableKeyError:
        passphrase = None if asks_first else ask_passphrase(f"{mountpoint}")
        if passphrase is None:
            raise
        unlock_mount(mountpoint, identities, passphrase)


def _for_the_mount(words: list[str]) -> list[str]:
    """Return the sources as the process of the mount is to read them.

    Raises:
        UsageError: it cannot read one of them.
    """
    from ovfuse.keys.sources import parse_source

    sources = [parse_source(word) for word in words]
    for source in sources:
        if source.is_here_only:
            raise UsageError(
                f"{source.words} is of this process, and the mount's cannot read it",
                hint="name a file or a command",
            )
    here = Path.cwd() if words else Path("/")
    return [source.seen_from(here).words for source in sources]
