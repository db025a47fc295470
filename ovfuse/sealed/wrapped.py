"""The model key of a sealing as its key files have it, and how to tell that it is it.

Needs nothing else of the sealing, so that a process of its own can look for the key.
Nothing in a key file is trusted: what it yields is a candidate.
"""

import logging
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple

from ovfuse.errors import CipherdirError, DamagedError
from ovfuse.quote import quoted
from ovfuse.sealed import beneath, layout
from ovfuse.sealed.primitives import opens
from ovfuse.sealed.wrapping import (
    Identity,
    is_for_passphrase,
    stanza_types,
    unwrap,
    unwrap_with_passphrase,
)
from ovfuse.secret import Secret

__all__ = ["FoundKey", "WrappedKey"]

_log = logging.getLogger(__name__)


class FoundKey(NamedTuple):
    """A model key, and the key file that holds it."""

    model_key: Secret
    key_file: bytes


@dataclass(frozen=True, slots=True)
class WrappedKey:
    """Where a model key is to be found, and what it must fit.

    Attributes:
        keys_fd: of the directory `keys`, or of one key file; the caller's.
        prefix: of the signed manifest message, which commits to the key.
        context: of that message.
    """

    keys_fd: int
    prefix: bytes
    context: bytes

    def files(self) -> Iterator[tuple[str, bytes]]:
        """Yield name and content of each key file; unusable ones are left out.

        Raises:
            DamagedError: there are too many.
            CipherdirError: the directory cannot be read.
        """
        if stat.S_ISREG(os.fstat(self.keys_fd).st_mode):
            size = min(os.fstat(self.keys_fd).st_size, layout.KEY_FILE_MAX_SIZE)
            yield "", os.pread(self.keys_fd, size, 0)
            return
        for name in _key_file_names(self.keys_fd):
            try:
                data = beneath.read_small(
                    name, self.keys_fd, layout.KEY_FILE_MAX_SIZE, "key file"
                )
                stanza_types(data)
            except (DamagedError, CipherdirError) as error:
                _log.warning("skipped %s: %s", quoted(name), error.message)
                continue
            yield name, data

    def find(
        self, identities: list[Identity], ask: Callable[[], str | None] | None = None
    ) -> FoundKey | None:
        """Return the model key, by the first identity that fits, or by a passphrase.

        Args:
            identities: tried first, on all key files.
            ask: asks for the passphrase, if there is a key file for one; None from it
                means that nobody can be asked.

        Raises:
            DamagedError, CipherdirError: the key files cannot be read.
        """
        candidates = ((data, unwrap(data, identities)) for _, data in self.files())
        return self._first_that_opens(candidates) or self._ask_for_key(ask)

    def _ask_for_key(self, ask: Callable[[], str | None] | None) -> FoundKey | None:
        files = [data for _, data in self.files() if is_for_passphrase(data)]
        passphrase = ask() if files and ask is not None else None
        if passphrase is None:
            return None
        # A writer makes one at most; whoever adds more costs us seconds each.
        candidates = (
            (data, unwrap_with_passphrase(data, passphrase))
            for data in files[: layout.PASSPHRASE_FILES_MAX]
        )
        return self._first_that_opens(candidates)

    def _first_that_opens(
        self, candidates: Iterable[tuple[bytes, Secret | None]]
    ) -> FoundKey | None:
        """Return the model key: the one that the signed manifest commits to."""
        for key_file, candidate in candidates:
            if candidate is None:
                continue
            if opens(candidate.view, self.prefix, self.context):
                return FoundKey(candidate, key_file)
            candidate.wipe()
            _log.warning("skipped a key file with the key of another sealing")
        return None


def _key_file_names(keys_fd: int) -> list[str]:
    """Return the names of the key files, sorted."""
    suffix = layout.KEY_SUFFIX
    with beneath.reading("directory keys"), os.scandir(keys_fd) as entries:
        names = [entry.name for entry in islice(entries, layout.KEY_FILES_MAX + 1)]
    if len(names) > layout.KEY_FILES_MAX:
        raise DamagedError(f"more than {layout.KEY_FILES_MAX} key files")
    return sorted(
        name
        for name in names
        if name.endswith(suffix) and layout.is_id(name.removesuffix(suffix))
    )
