"""The one table from an exception to the errno that a program sees.

Used by every engine, through failures.py. Pure: no state, any thread. A
failure of the disk below is always EIO, never ENOENT: within a sealed model
nothing is silently absent.
"""

import errno
from typing import Final

from ovfuse.errors import (
    IsADirectoryNodeError,
    KeyFileError,
    NameTooLongError,
    NotADirectoryNodeError,
    NotFoundError,
    NoUsableKeyError,
    RollbackError,
    SupersededError,
    TermsError,
    UntrustedError,
)

__all__ = ["DENIALS", "ORDINARY", "errno_of"]

_TABLE: Final[tuple[tuple[type[Exception], int], ...]] = (
    (NotFoundError, errno.ENOENT),
    (NameTooLongError, errno.ENAMETOOLONG),
    (NotADirectoryNodeError, errno.ENOTDIR),
    (IsADirectoryNodeError, errno.EISDIR),
    (SupersededError, errno.ESTALE),
    (NoUsableKeyError, errno.EACCES),
    (KeyFileError, errno.EACCES),
    (TermsError, errno.EACCES),
    (RollbackError, errno.EACCES),
)

ORDINARY: Final = frozenset(
    {errno.ENOENT, errno.ENAMETOOLONG, errno.ENOTDIR, errno.EISDIR}
)
"""Answers of any filesystem; no fault of the model's, so never logged."""

DENIALS: Final = (
    NoUsableKeyError,
    KeyFileError,
    TermsError,
    RollbackError,
    UntrustedError,
)
"""Somebody must not have it, as opposed to what is broken."""


def errno_of(error: Exception) -> int:
    """Return the errno for `error`; EIO for whatever the table does not name."""
    for kind, code in _TABLE:
        if isinstance(error, kind):
            return code
    return errno.EIO
