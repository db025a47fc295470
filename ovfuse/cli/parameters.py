"""Arguments and options of the commands, those of several commands once."""

from pathlib import Path
from typing import Annotated

import typer

__all__ = [
    "Cipherdir",
    "Foreground",
    "Identities",
    "Json",
    "Machines",
    "ModelDirectory",
    "ModelName",
    "MountOptions",
    "Mountpoint",
    "NewModel",
    "NotAfter",
    "NotBefore",
    "Recipients",
    "RecipientsFiles",
    "SignKey",
    "TargetCipherdir",
    "VerifyKeys",
]

ModelDirectory = Annotated[
    Path, typer.Argument(metavar="MODEL_DIR", help="What to seal.")
]
Cipherdir = Annotated[
    Path,
    typer.Argument(metavar="CIPHERDIR", help="A sealed model, or a tree of them."),
]
TargetCipherdir = Annotated[
    Path,
    typer.Argument(
        metavar="CIPHERDIR", help="Where the sealed model goes; made if missing."
    ),
]
Mountpoint = Annotated[
    Path, typer.Argument(metavar="MOUNTPOINT", help="An empty directory.")
]
Recipients = Annotated[
    list[str] | None,
    typer.Option(
        "-r",
        "--recipient",
        metavar="RECIPIENT",
        help="Who may open it: age1..., or an ssh public key. Repeatable. "
        "[default: you]",
    ),
]
RecipientsFiles = Annotated[
    list[Path] | None,
    typer.Option(
        "-R",
        "--recipients-file",
        metavar="FILE",
        help="A file with a recipient per line. Repeatable.",
    ),
]
SignKey = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE", help="An ssh-ed25519 private key. [default: your own]"
    ),
]
ModelName = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="The signed name. [default: the current one; at first, that of CIPHERDIR]",
    ),
]
NewModel = Annotated[
    bool,
    typer.Option("--new-model", help="Start over: a new model id, version 1."),
]
NotBefore = Annotated[
    str | None, typer.Option(metavar="DATE", help="Not to be used before.")
]
NotAfter = Annotated[
    str | None, typer.Option(metavar="DATE", help="Not to be used from then on.")
]
Machines = Annotated[
    list[str] | None,
    typer.Option("--machine", metavar="ID", help="Only for this machine. Repeatable."),
]
Identities = Annotated[
    list[Path] | None,
    typer.Option(
        "-i",
        "--identity",
        metavar="IDENTITY",
        help="An identity file; only those given are tried. Repeatable.",
    ),
]
VerifyKeys = Annotated[
    list[Path] | None,
    typer.Option(
        "--verify-key",
        metavar="FILE",
        help="Also trust this publisher's public key. Repeatable.",
    ),
]
MountOptions = Annotated[
    list[str] | None,
    typer.Option(
        "-o",
        metavar="OPT,...",
        help="Mount options, separated by commas. Repeatable.",
    ),
]
Foreground = Annotated[
    bool, typer.Option("-f", "--foreground", help="Stay, and log to stderr.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
