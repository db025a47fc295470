"""`ovfuse tpm`: an identity that only this device's TPM gives out."""

import os
from contextlib import nullcontext
from pathlib import Path

import typer

from ovfuse.cli import terminal
from ovfuse.cli.parameters import AllowZeroPcrs, EnrolledIdentity, NewBlob, Pcrs, Tcti
from ovfuse.errors import KeyFileError
from ovfuse.keys.files import create_private
from ovfuse.keys.places import SYSTEM_DIRECTORY, user_directory
from ovfuse.quote import quoted
from ovfuse.secret import Secret

__all__ = ["app"]

app = typer.Typer(
    help="Bind an identity to the TPM of this device.", rich_markup_mode=None
)

_NAME = "identity.tpm2"


@app.callback()
def _group() -> None:
    pass


@app.command("enrol")
def enrol(
    out: NewBlob = None,
    identity: EnrolledIdentity = None,
    pcrs: Pcrs = "7",
    tcti: Tcti = None,
    allow_zero_pcrs: AllowZeroPcrs = False,
) -> None:
    """Seal an identity to the TPM of this device, as it was started now.

    Needs ovfuse[tpm2]. The identity is never on a disk; -i tpm2:OUT opens models by it.
    """
    from ovfuse.keys import tpm2

    path = out or _default_path()
    indices = tpm2.parse_pcrs(pcrs)
    if os.path.lexists(path):  # before the TPM is troubled
        raise KeyFileError(f"{quoted(path)} exists and is not replaced")
    with _read(identity) if identity is not None else nullcontext() as given:
        blob = tpm2.enrol(given, indices, tcti=tcti, allow_zero=allow_zero_pcrs)
    try:
        create_private(path, blob.to_bytes())
    except OSError as error:
        raise KeyFileError(f"{quoted(path)}: {error.strerror}") from None
    terminal.say(f"recipient: {blob.recipient}")
    terminal.say(f"enrolled in: {quoted(path)}")
    terminal.say(f"use it by: -i {quoted(f'tpm2:{path}')}")
    if identity is None:
        terminal.note(
            "nobody has a copy of this identity: when the TPM does not give it out "
            "any more, enrol again and have models sealed for the new recipient"
        )


def _default_path() -> Path:
    if os.geteuid() == 0:
        return SYSTEM_DIRECTORY / _NAME
    directory = user_directory()
    if directory is None:
        raise KeyFileError("there is no home directory to keep keys in")
    return directory / _NAME


def _read(identity: str) -> Secret:
    from ovfuse.keys.sources import parse_source

    source = parse_source(identity)
    try:
        return source.read()
    except OSError as error:
        raise KeyFileError(f"{quoted(source.label)}: {error.strerror}") from None
