"""A sealed model on disk as a source: no mount, no daemon."""

import io
import threading
import weakref
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from ovfuse.keys.unlocker import Unlocked
from ovfuse.load.files import PositionalFile
from ovfuse.load.source import SealingFacts, check_path, closed, no_memory
from ovfuse.sealed.parallel import usable_cpus
from ovfuse.sealed.reader import ScratchPool
from ovfuse.secret import Secret

__all__ = ["SealedSource"]

# The block list binds every byte already; beyond this the hash, which one thread has to
# compute from start to end, would double the time. `ovfuse verify` checks it.
_HASHED_MAX_SIZE: Final = 16 * 1024 * 1024


class SealedSource:
    """See `source.Source`.

    Args:
        unlocked: the sealing, owned from here on.
        where: for messages.
        pool: of the readers, used by this source alone.
    """

    def __init__(self, unlocked: Unlocked, where: str, pool: ScratchPool) -> None:
        manifest = unlocked.sealing.manifest
        self._sealing = unlocked.sealing
        self._pool = pool
        self._entries: Final = {entry.path: entry for entry in manifest.files}
        self.files: Final[Mapping[str, int]] = MappingProxyType(
            {entry.path: entry.size for entry in manifest.files}
        )
        self.where: Final = where
        self.facts: Final = SealingFacts(
            seal_id=manifest.facts.seal_id,
            model_id=manifest.facts.model_id,
            version=manifest.facts.version,
            payload_sha256=unlocked.envelope.payload_sha256,
        )
        self._lock = threading.Lock()
        self._open: weakref.WeakSet[PositionalFile] = weakref.WeakSet()
        self._closed = False

    def read_into(self, path: str, buffer: memoryview) -> None:
        """Read a whole file on all processors; see `Source.read_into`."""
        self._check_open()
        check_path(self.files, path)
        try:
            self._sealing.read_file_into(
                self._entries[path],
                buffer,
                workers=usable_cpus(),
                check_hash=len(buffer) <= _HASHED_MAX_SIZE,
            )
        except MemoryError:
            raise no_memory(len(buffer)) from None

    def open(self, path: str) -> io.RawIOBase:
        """Open a file; closing the source closes it."""
        self._check_open()
        check_path(self.files, path)
        reader = self._sealing.open_file(self._entries[path])
        file = PositionalFile(reader.read_into, reader.plaintext_size, reader.close)
        with self._lock:
            self._open.add(file)
        return file

    def derive_key(self, label: bytes) -> Secret:
        """Return 32 bytes bound to the sealing and the label."""
        self._check_open()
        return self._sealing.derive_key(label)

    def close(self) -> None:
        """Close files and descriptors, wipe the key and what was decrypted."""
        if self._closed:
            return
        self._closed = True
        with self._lock:
            files = list(self._open)
        for file in files:
            file.close()
        self._pool.wipe()
        self._sealing.close()

    def _check_open(self) -> None:
        if self._closed:
            raise closed()
