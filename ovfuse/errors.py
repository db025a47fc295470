"""Every error that ovfuse raises on purpose, and the exit code that each one means.

Used by all layers; defined here and only here. The numbers are an ABI
(docs/cli.md has the table, a test holds both equal): they are never reused.

    OvfuseError
    ├── UsageError              2  the command was called wrongly
    ├── CipherdirError         10  no sealed model there, or it cannot be read
    │   ├── NewerFormatError   11  made by a newer ovfuse
    │   └── BusyError          12  another command is writing to it
    ├── DamagedError           13  corrupted or tampered with
    ├── UntrustedError         14  not signed by a trusted key, or under another name
    ├── NoUsableKeyError       15  no identity opens it
    ├── TermsError             16  outside the publisher's terms
    ├── KeyFileError           17  an identity or key file that must not be used
    ├── SourceError            18  MODEL_DIR cannot be sealed as it is
    ├── RollbackError          19  older than what was seen here before
    ├── MountpointError        20  the mountpoint is unsuitable
    ├── MountFailedError       21  FUSE refused
    ├── NotMountedError        22  no ovfuse mount there
    ├── OutputError            23  plaintext cannot be written where it should go
    ├── LoadError              24  the loader cannot hand it to OpenVINO
    └── ViewError               -  of the served tree; becomes an errno
        ├── NotFoundError, NotADirectoryNodeError, IsADirectoryNodeError
        └── SupersededError
"""

from pathlib import Path
from typing import ClassVar

__all__ = [
    "BusyError",
    "CipherdirError",
    "DamagedError",
    "IsADirectoryNodeError",
    "KeyFileError",
    "LoadError",
    "MountFailedError",
    "MountpointError",
    "NewerFormatError",
    "NoUsableKeyError",
    "NotADirectoryNodeError",
    "NotFoundError",
    "NotMountedError",
    "OutputError",
    "OvfuseError",
    "RollbackError",
    "SourceError",
    "SupersededError",
    "TermsError",
    "UntrustedError",
    "UsageError",
    "ViewError",
    "describe",
]


class OvfuseError(Exception):
    """The root of the tree: one line for the user, and perhaps what to do.

    Args:
        message: one line without a final stop; outside strings in it quoted.
        hint: what the user can do about it, or empty.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(OvfuseError):
    """The command line is wrong."""

    exit_code = 2


class CipherdirError(OvfuseError):
    """There is no sealed model, or the operating system refuses to read it."""

    exit_code = 10


class NewerFormatError(CipherdirError):
    """The sealed model has a format that this version does not know."""

    exit_code = 11


class BusyError(CipherdirError):
    """Another process holds the cipherdir's lock."""

    exit_code = 12


class DamagedError(OvfuseError):
    """Bytes that are corrupted or tampered with; nothing of them is released."""

    exit_code = 13


class UntrustedError(OvfuseError):
    """Whole, perhaps, but not what a trusted publisher signed for this place."""

    exit_code = 14


class NoUsableKeyError(OvfuseError):
    """No identity at hand opens the sealed model."""

    exit_code = 15


class TermsError(OvfuseError):
    """The publisher's terms do not allow use here and now."""

    exit_code = 16


class KeyFileError(OvfuseError):
    """An identity, recipient or key file is malformed, unsafe or in the way."""

    exit_code = 17


class SourceError(OvfuseError):
    """A model directory holds what cannot be sealed, or changed meanwhile."""

    exit_code = 18


class RollbackError(OvfuseError):
    """An older sealing, or another model, than was seen in this place before."""

    exit_code = 19


class MountpointError(OvfuseError):
    """The mountpoint is missing, not empty, in use, stale or in the cipherdir."""

    exit_code = 20


class MountFailedError(OvfuseError):
    """FUSE is missing or refused to mount, or the daemon died on the way."""

    exit_code = 21


class NotMountedError(OvfuseError):
    """No ovfuse mount is there."""

    exit_code = 22


class OutputError(OvfuseError):
    """`decrypt` cannot write where it was told to."""

    exit_code = 23


class LoadError(OvfuseError):
    """The loader cannot hand a file to OpenVINO, or was called wrongly."""

    exit_code = 24


class ViewError(OvfuseError):
    """An ordinary answer of a filesystem; serve/ has the errno of each."""


class NotFoundError(ViewError):
    """No node of that name."""


class NameTooLongError(ViewError):
    """A name that no node can have."""


class NotADirectoryNodeError(ViewError):
    """A directory was asked for and the node is a file."""


class IsADirectoryNodeError(ViewError):
    """A file was asked for and the node is a directory."""


class SupersededError(ViewError):
    """A file of a sealing that was replaced and is gone from the disk."""


def describe(error: BaseException) -> str:
    """Name kind and place of an unexpected error, for a message or a log.

    Its own text is left out: it could quote plaintext, a name or a key.
    """
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    kind = type(error).__name__
    if isinstance(error, OSError) and error.strerror:
        kind = f"{kind} ({error.strerror})"
    if trace is None:
        return kind
    return f"{kind} at {Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}"
