"""`keyring:DESCRIPTION`: a key of type `user` in the kernel's keyrings.

The session's keyring is looked at first, then the user's. To read a key it must be
possessed: the user's keyring is linked to a keyring of this thread for that moment, so
that the session's stays as it is. By libkeyutils, since numbers of system calls differ.
"""

import ctypes
import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, Self

from ovfuse.errors import KeyFileError, UsageError
from ovfuse.keys.sources.contract import MAX_SIZE, Source
from ovfuse.keys.sources.reading import taken
from ovfuse.quote import quoted
from ovfuse.secret import Secret

__all__ = ["KeyringSource"]

_LIBRARY: Final = "libkeyutils.so.1"
_TYPE: Final = b"user"
_DESCRIPTION_MAX: Final = 4095
_THREAD, _SESSION, _USER = -1, -3, -4
"""KEY_SPEC_*_KEYRING of keyctl(2)"""
_NOT_HERE: Final = (errno.ENOKEY, errno.EACCES, errno.EKEYREVOKED, errno.EKEYEXPIRED)
_REASONS: Final = {
    errno.ENOKEY: "there is no such key in the session's or the user's keyring",
    errno.EACCES: "its permissions do not allow it to be read",
    errno.EKEYREVOKED: "the key was revoked, or the session has ended",
    errno.EKEYEXPIRED: "the key has expired",
    errno.ENOSYS: "this kernel has no keyrings",
    errno.EPERM: "keyrings are forbidden here",
}


@dataclass(frozen=True, slots=True)
class KeyringSource(Source):
    """See `Source`.

    Args:
        description: of the key.
    """

    description: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the source of that description.

        Raises:
            UsageError: no key can have it.
        """
        if not text or "\0" in text or len(os.fsencode(text)) > _DESCRIPTION_MAX:
            raise UsageError(
                f"{quoted(f'keyring:{text}')} is not the description of a key"
            )
        return cls(text)

    @property
    def words(self) -> str:
        """What `parse_source` makes an equal one of."""
        return f"keyring:{self.description}"

    def read(self) -> Secret:
        """Return the payload of the key; see `Source.read`."""
        try:
            library = _library()
        except OSError:
            raise KeyFileError(
                f"{quoted(self.label)} needs the library {_LIBRARY}",
                hint="apt-get install libkeyutils1",
            ) from None
        try:
            with _possessed(library):
                return self._read(library)
        except OSError as error:
            reason = _REASONS.get(error.errno or 0, error.strerror)
            raise KeyFileError(
                f"{quoted(self.label)}: {reason}",
                hint="keyctl show @s and keyctl show @u list what there is for this "
                "account",
            ) from None

    def _read(self, library: ctypes.CDLL) -> Secret:
        key = self._find(library)
        buffer = bytearray(MAX_SIZE)
        target = (ctypes.c_char * MAX_SIZE).from_buffer(buffer)
        size = _checked(library.keyctl_read(key, target, ctypes.c_size_t(MAX_SIZE)))
        del target
        if size > MAX_SIZE:  # then nothing was written
            raise KeyFileError(f"{quoted(self.label)} holds more than a key needs")
        return taken(buffer, size)

    def _find(self, library: ctypes.CDLL) -> int:
        description = os.fsencode(self.description)
        failure = OSError(errno.ENOKEY, os.strerror(errno.ENOKEY))
        for keyring in (_SESSION, _USER):
            try:
                return _checked(library.keyctl_search(keyring, _TYPE, description, 0))
            except OSError as error:
                if error.errno not in _NOT_HERE:
                    raise
                if error.errno != errno.ENOKEY:
                    failure = error
        raise failure


def _library() -> ctypes.CDLL:
    library = ctypes.CDLL(_LIBRARY, use_errno=True)
    for name in ("keyctl_search", "keyctl_read", "keyctl_link", "keyctl_unlink"):
        getattr(library, name).restype = ctypes.c_long
    return library


@contextmanager
def _possessed(library: ctypes.CDLL) -> Iterator[None]:
    """Have the user's keyring in one of this thread's own meanwhile, if it may be."""
    is_linked = library.keyctl_link(_USER, _THREAD) == 0
    try:
        yield
    finally:
        if is_linked:
            library.keyctl_unlink(_USER, _THREAD)


def _checked(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result
