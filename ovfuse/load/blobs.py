"""Compiled blobs on disk, sealed: found by what they were made from, checked, written.

A blob is OpenVINO's export, weights included. On disk it is a local file
(sealed/local_file.py) under a key that needs the model key and this device's secret,
with a header that says what it was made from and for. OpenVINO checks next to nothing
in a blob: one that is not authenticated never gets there.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, Literal

from msgspec import Meta

from ovfuse.errors import DamagedError
from ovfuse.load.source import no_memory
from ovfuse.load.tensors import allocate
from ovfuse.sealed.canonical import Record, decode, encode
from ovfuse.sealed.local_file import LocalFile, write_local_file
from ovfuse.secret import Secret

if TYPE_CHECKING:
    import openvino

__all__ = ["BLOB_LABEL", "Blob", "BlobFacts", "StaleError"]

BLOB_LABEL: Final = b"ovfuse.compiled.v1"
_SUFFIX: Final = ".ovfuse"
_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC

Text = Annotated[str, Meta(max_length=4096)]


class StaleError(DamagedError):
    """A blob that was made from, or for, something else; the message says what."""


class BlobFacts(Record, frozen=True):
    """What a blob was made from and for: its header, which is in clear.

    `name` is that of the file, without its suffix: it stands for the path in the model
    and the settings, and says nothing to others.
    """

    device: Text
    format: Literal[1]
    hardware: Text
    name: Text
    openvino: Text
    payload_sha256: Text
    seal_id: Text


_STALE: Final = {
    "payload_sha256": "it was made from another sealing",
    "seal_id": "it was made from another sealing",
    "device": "it was made for another device",
    "hardware": "it was made for other hardware",
    "openvino": "it was made by another version of OpenVINO",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Blob:
    """One blob, which may be in several directories, or in none.

    Attributes:
        facts: that it must have.
        key: 32 bytes.
    """

    facts: BlobFacts
    key: Secret

    def read(self, directory: Path) -> "openvino.Tensor":
        """Return the blob, authenticated, in memory that OpenVINO owns.

        Raises:
            StaleError: it was made from, or for, something else.
            DamagedError: it is missing or not whole.
            CipherdirError: it cannot be read.
            LoadError: there is no memory for it.
            OSError: the directory cannot be opened.
        """
        with _opened(directory) as fd, LocalFile(fd, self.facts.name + _SUFFIX) as file:
            if file.header != encode(self.facts):
                raise StaleError(_reason(file.header, self.facts))
            return _read(file, self.key)

    def write(self, directory: Path, content: memoryview) -> None:
        """Write the blob; an older one is replaced.

        Raises:
            BusyError: another process is writing it.
            OSError: the operating system refuses.
        """
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        with _opened(directory) as fd:
            write_local_file(
                fd,
                self.facts.name + _SUFFIX,
                header=encode(self.facts),
                key=self.key,
                label=BLOB_LABEL,
                plaintext=content,
            )

    @staticmethod
    def exists(directory: Path, name: str) -> bool:
        """Tell whether there is a blob of this name."""
        return os.path.lexists(directory / (name + _SUFFIX))


def _read(file: LocalFile, key: Secret) -> "openvino.Tensor":
    tensors = []

    def memory_of(size: int) -> memoryview:
        tensor, memory = allocate(size)
        tensors.append(tensor)
        return memory

    try:
        file.read_into(memory_of, key, BLOB_LABEL)
    except MemoryError:
        raise no_memory(file.size) from None
    return tensors[0]


def _reason(header: bytes, wanted: BlobFacts) -> str:
    """Say why a header is another than it should be; nothing in it is believed."""
    found = decode(header, BlobFacts, "header")
    for name, reason in _STALE.items():
        if getattr(found, name) != getattr(wanted, name):
            return reason
    raise DamagedError("it is not what it should be")


@contextmanager
def _opened(directory: Path) -> Iterator[int]:
    fd = os.open(directory, _DIRECTORY)
    try:
        yield fd
    finally:
        os.close(fd)
