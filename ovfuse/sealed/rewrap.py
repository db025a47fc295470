"""Recipients of a sealing that exists: key files added and removed.

No signature changes, since none covers key files; the model key stays the same, so
whoever was removed could have opened the sealing already. Each change is one rename
or one unlink, synced. The caller holds the cipherdir's lock.
"""

import contextlib
import os
from collections.abc import Iterable, Iterator
from secrets import token_hex
from typing import Final

from ovfuse.errors import CipherdirError, UsageError
from ovfuse.quote import quoted
from ovfuse.sealed import beneath, layout
from ovfuse.sealed.disk import create_file
from ovfuse.sealed.opening import LockedSealing
from ovfuse.sealed.primitives import recipient_file_id
from ovfuse.sealed.writer import write_all
from ovfuse.secret import Secret

__all__ = ["KeyFiles"]

_TEMPORARY: Final = "new."  # no reader takes it for a key file


class KeyFiles:
    """The directory `keys` of one sealing, whose model key is known.

    Raises:
        DamagedError, CipherdirError: the directory is missing or cannot be read.
    """

    def __init__(self, locked: LockedSealing, model_key: Secret) -> None:
        self._locked = locked
        self._model_key = model_key
        self._fd = locked.open_keys()

    def name_of(self, recipient: str) -> str:
        """Return the file name of a recipient, from its canonical string."""
        return recipient_file_id(self._model_key.view, recipient) + layout.KEY_SUFFIX

    def has(self, recipient: str) -> bool:
        """Tell whether there is a key file for a recipient."""
        return beneath.exists(self.name_of(recipient), self._fd)

    def put(self, recipient: str, data: bytes) -> None:
        """Write the key file of a recipient, replacing the one that is there.

        Raises:
            UsageError: there are too many.
            CipherdirError: the disk refuses; nothing was changed.
        """
        # Readers count every entry, the temporary one too.
        if not self.has(recipient) and len(self._names()) > layout.KEY_FILES_MAX - 2:
            raise UsageError(f"more than {layout.KEY_FILES_MAX - 1} key files")
        temporary = _TEMPORARY + token_hex(8)
        with _changing():
            try:
                fd = create_file(temporary, self._fd)
                try:
                    write_all(fd, data)
                    os.fsync(fd)
                finally:
                    os.close(fd)
                os.rename(
                    temporary,
                    self.name_of(recipient),
                    src_dir_fd=self._fd,
                    dst_dir_fd=self._fd,
                )
            except BaseException:
                with contextlib.suppress(OSError):
                    os.unlink(temporary, dir_fd=self._fd)
                raise
            os.fsync(self._fd)

    def remove(self, recipients: Iterable[str]) -> None:
        """Remove the key files of some recipients.

        Raises:
            UsageError: one of them is none, or they are the last ones, after which
                nobody could open the model; nothing was changed.
            CipherdirError: the disk refuses.
        """
        names = {self.name_of(recipient): recipient for recipient in recipients}
        usable = {name for name, _ in self._locked.key_files()}
        for name, recipient in names.items():
            if name not in self._names():
                raise UsageError(f"{quoted(recipient)} is not among its recipients")
        if not usable - set(names):
            raise UsageError(
                "no key file that could be used would be left: nobody could open it"
            )
        with _changing():
            for name in names:
                os.unlink(name, dir_fd=self._fd)
            os.fsync(self._fd)

    def clean(self) -> None:
        """Remove what an interrupted `put` left."""
        with _changing():
            for name in os.listdir(self._fd):
                if name.startswith(_TEMPORARY):
                    os.unlink(name, dir_fd=self._fd)

    def close(self) -> None:
        """Close the directory."""
        os.close(self._fd)

    def _names(self) -> set[str]:
        with _changing():
            return set(os.listdir(self._fd))


@contextlib.contextmanager
def _changing() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise CipherdirError(f"the directory keys: {error.strerror}") from None
