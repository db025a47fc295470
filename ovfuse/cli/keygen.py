"""`ovfuse keygen`: the own keys, or an identity for a device."""

from pathlib import Path
from typing import Annotated

import typer

from ovfuse.cli import terminal
from ovfuse.errors import KeyFileError
from ovfuse.keys.identities import find_identities
from ovfuse.keys.own import OwnFile, own_identities, own_signing_key, write_identity
from ovfuse.keys.recipients import own_recipients
from ovfuse.quote import quoted

__all__ = ["IDENTITY_WARNING", "keygen", "tell_created"]

IDENTITY_WARNING = (
    "an identity on the same disk as the models protects nothing if that disk is "
    "stolen; keep a device's in a systemd credential bound to its TPM, or another "
    "medium, or behind a passphrase"
)


def keygen(
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            readable=False,
            help="Write only an identity, to FILE: for a device.",
        ),
    ] = None,
) -> None:
    """Make your keys, or an identity for a device.

    The identity opens models that are sealed for it; the signing key vouches for
    models that you seal.
    """
    if output is not None:
        _write_only_identity(output)
        return
    identities, identity_file = own_identities()
    signing_key, signing_file = own_signing_key()
    if not identity_file.created and not signing_file.created:
        terminal.note("the keys exist already and are kept")
    tell_created(identity_file, signing_file)
    for recipient in own_recipients(identities):
        terminal.say(f"recipient: {recipient.canonical}")
    terminal.say(f"signer: {signing_key.public.fingerprint}")
    terminal.say(f"identity file: {quoted(identity_file.path)}")
    terminal.say(f"signing key: {quoted(signing_file.path)}")
    terminal.say(f"give to devices: {quoted(f'{signing_file.path}.pub')}")


def _write_only_identity(output: Path) -> None:
    try:
        write_identity(output)
    except OSError as error:
        raise KeyFileError(f"{quoted(output)}: {error.strerror}") from None
    for recipient in own_recipients(find_identities([output]).identities):
        terminal.say(f"recipient: {recipient.canonical}")
    terminal.say(f"identity file: {quoted(output)}")
    terminal.warning(IDENTITY_WARNING)


def tell_created(identity_file: OwnFile, signing_file: OwnFile) -> None:
    """Say which keys were made just now, and what that means."""
    if identity_file.created:
        terminal.note(f"made an identity: {quoted(identity_file.path)}")
    if signing_file.created:
        terminal.note(f"made a signing key: {quoted(signing_file.path)}")
    if identity_file.created or signing_file.created:
        terminal.note(
            "back these up: without them no model opens, no new version counts"
        )
    if identity_file.created:
        terminal.warning(IDENTITY_WARNING)
