"""Arguments and options of the commands, those of several commands once.

Paths are `readable=False`: whether one can be used is not judged here, where it would
be a mistake in the command line, but by the command, which has an error for it. With
`parser=Path`, nobody even looks whether it exists: a mount may not answer.
"""

import os
from pathlib import Path
from typing import Annotated

import typer

__all__ = [
    "AllowRollback",
    "AllowUntrusted",
    "AllowZeroPcrs",
    "Cipherdir",
    "CompileConfig",
    "Device",
    "EnrolledIdentity",
    "Foreground",
    "Identities",
    "Json",
    "Machines",
    "ModelDirectory",
    "ModelName",
    "ModelPath",
    "MountOptions",
    "Mounted",
    "Mountpoint",
    "NewBlob",
    "NewModel",
    "NotAfter",
    "NotBefore",
    "OutputDirectory",
    "Passphrase",
    "Pcrs",
    "Recipients",
    "RecipientsFiles",
    "SignKey",
    "SingleCipherdir",
    "TargetCipherdir",
    "Tcti",
    "VerifyKeys",
    "seen_from_root",
]

ModelDirectory = Annotated[
    Path, typer.Argument(metavar="MODEL_DIR", help="What to seal.", readable=False)
]
Cipherdir = Annotated[
    Path,
    typer.Argument(
        metavar="CIPHERDIR", help="A sealed model, or a tree of them.", readable=False
    ),
]
TargetCipherdir = Annotated[
    Path,
    typer.Argument(
        metavar="CIPHERDIR",
        help="Where the sealed model goes; made if missing.",
        readable=False,
    ),
]
Mountpoint = Annotated[
    Path,
    typer.Argument(metavar="MOUNTPOINT", help="An empty directory.", parser=Path),
]
Mounted = Annotated[
    Path,
    typer.Argument(metavar="MOUNTPOINT", help="Where it is mounted.", parser=Path),
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
        readable=False,
    ),
]
SignKey = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="An ssh-ed25519 private key. [default: your own]",
        readable=False,
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
    str | None, typer.Option(metavar="DATE", help="Not to be used before: 2027-01-31.")
]
NotAfter = Annotated[
    str | None, typer.Option(metavar="DATE", help="Not to be used from then on.")
]
Machines = Annotated[
    list[str] | None,
    typer.Option("--machine", metavar="ID", help="Only for this machine. Repeatable."),
]
Identities = Annotated[
    list[str] | None,
    typer.Option(
        "-i",
        "--identity",
        metavar="SOURCE",
        help="Where an identity is: a file, credential:NAME, command:..., fd:N, "
        "keyring:NAME, tpm2:FILE, passphrase:SOURCE; only these. Repeatable.",
    ),
]
VerifyKeys = Annotated[
    list[Path] | None,
    typer.Option(
        "--verify-key",
        metavar="FILE",
        help="Also trust this publisher's public key. Repeatable.",
        readable=False,
    ),
]
MountOptions = Annotated[
    list[str] | None,
    typer.Option(
        "-o",
        metavar="OPT,...",
        help="allow_other, uid=, gid=, umask=, strict, model=, log=, ... Repeatable.",
    ),
]
Foreground = Annotated[
    bool, typer.Option("-f", "--foreground", help="Stay, and log to stderr.")
]
Passphrase = Annotated[
    bool,
    typer.Option("-p", "--passphrase", help="Also a passphrase, asked for."),
]
AllowUntrusted = Annotated[
    bool, typer.Option("--allow-untrusted", help="Accept any signer, or none.")
]
AllowRollback = Annotated[
    bool,
    typer.Option("--allow-rollback", help="Accept an older version than was seen."),
]
OutputDirectory = Annotated[
    Path,
    typer.Argument(
        metavar="OUT_DIR", help="A directory, empty or missing.", readable=False
    ),
]
SingleCipherdir = Annotated[
    Path,
    typer.Argument(metavar="CIPHERDIR", help="One sealed model.", readable=False),
]
ModelPath = Annotated[
    str, typer.Argument(metavar="PATH", help="A model in it: of the .xml, .onnx, ...")
]
Device = Annotated[
    str, typer.Option(metavar="DEVICE", help="OpenVINO's name of the device.")
]
CompileConfig = Annotated[
    list[str] | None,
    typer.Option(
        "--config",
        metavar="KEY=VALUE",
        help="A setting of the compilation, as the app has it. Repeatable.",
    ),
]
NewBlob = Annotated[
    Path | None,
    typer.Argument(
        metavar="OUT",
        help="The file to make. [default: identity.tpm2, where identity.txt would be]",
        readable=False,
    ),
]
EnrolledIdentity = Annotated[
    str | None,
    typer.Option(
        "-i",
        "--identity",
        metavar="SOURCE",
        help="Enrol this identity, of which there is a backup. [default: a new one]",
    ),
]
Pcrs = Annotated[
    str, typer.Option(metavar="PCRS", help="What must stay as it is, such as 0,2,7.")
]
Tcti = Annotated[
    str | None,
    typer.Option(
        metavar="TCTI",
        help="The TPM, as for tpm2-tools. [default: $TPM2TOOLS_TCTI, /dev/tpmrm0]",
    ),
]
AllowZeroPcrs = Annotated[
    bool,
    typer.Option("--allow-zero-pcrs", help="Even if nothing was measured into one."),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def seen_from_root(mountpoint: Path) -> Path:
    """Return an absolute path, and leave: from inside, this process keeps it busy."""
    absolute = mountpoint.absolute()
    os.chdir("/")
    return absolute
