"""`ovfuse trust`: whose sealings are believed."""

from pathlib import Path
from typing import Annotated

import typer

from ovfuse.cli import terminal
from ovfuse.keys.trusted import (
    add_trusted,
    list_trusted,
    parse_public_keys,
    remove_trusted,
)
from ovfuse.quote import quoted
from ovfuse.sealed.signing import PublicKey

__all__ = ["app"]

app = typer.Typer(
    help="Say whose sealed models you trust.",
    rich_markup_mode=None,
)


@app.command("add")
def add(
    key: Annotated[
        str, typer.Argument(metavar="KEY", help="A .pub file, or its line in quotes.")
    ],
    system: Annotated[
        bool, typer.Option("--system", help="For everyone, in /etc/ovfuse/trusted.")
    ] = False,
) -> None:
    """Trust a publisher's ssh-ed25519 public key."""
    if key.startswith("ssh-"):
        keys = [PublicKey.from_line(key)]
    else:
        keys = parse_public_keys(Path(key), check_owner=False)
    for public in keys:
        path = add_trusted(public, system=system)
        terminal.say(
            f"trusted: {public.fingerprint} {public.comment} in {quoted(path)}"
        )


@app.command("list")
def show() -> None:
    """List the trusted keys, yours and the system's."""
    for trusted in list_trusted():
        key = trusted.key
        terminal.say(f"{key.fingerprint} {key.comment} {quoted(trusted.path)}")


@app.command("remove")
def remove(
    fingerprint: Annotated[
        str, typer.Argument(metavar="FINGERPRINT", help="SHA256:... as list shows it.")
    ],
) -> None:
    """Stop trusting a key."""
    for path in remove_trusted(fingerprint):
        terminal.say(f"removed: {quoted(path)}")
