"""The files of one model, wherever they come from: what the rest of load/ reads.

Two implementations: sealed.py (a sealed model on disk), mounted.py (a directory on a
mount). A source may be used by many threads; only its owner closes it.
"""

import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Protocol

from ovfuse.errors import IsADirectoryNodeError, LoadError, NotFoundError
from ovfuse.quote import quoted
from ovfuse.secret import Secret

__all__ = ["SealingFacts", "Source", "check_path", "closed"]

_SHOWN: Final = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class SealingFacts:
    """Which sealing it is; ids and hash in lowercase hex."""

    seal_id: str
    model_id: str
    version: int
    payload_sha256: str


class Source(Protocol):
    """The files of one model.

    Every method raises LoadError once the source is closed.
    """

    @property
    def files(self) -> Mapping[str, int]:
        """Size in bytes of each file by its path (`a/b.bin`), sorted."""

    @property
    def where(self) -> str:
        """Where the model is: for messages, not yet quoted."""

    @property
    def facts(self) -> SealingFacts | None:
        """Which sealing it is; None on a mount, which does not tell."""

    def read_into(self, path: str, buffer: memoryview) -> None:
        """Read a whole file into a writable buffer of exactly its size in bytes.

        What is in it afterwards is authenticated as a whole; after an error nothing of
        the file is left in it.

        Raises:
            NotFoundError, IsADirectoryNodeError: there is no such file.
            DamagedError: it is not what was signed.
            CipherdirError: it cannot be read.
            LoadError: there is no memory behind the buffer.
        """

    def open(self, path: str) -> io.RawIOBase:
        """Open a file for random access, read-only.

        Raises:
            NotFoundError, IsADirectoryNodeError, DamagedError, CipherdirError: as
                `read_into`; damage also when it is read.
        """

    def derive_key(self, label: bytes) -> Secret | None:
        """Return 32 bytes bound to the sealing and `label` (ASCII, without NUL).

        None where the model key is not known: on a mount. The caller wipes it.
        """

    def close(self) -> None:
        """Close every descriptor and wipe the keys; a second call does nothing."""


def check_path(files: Mapping[str, int], path: str) -> int:
    """Return the size in bytes of a file of the model.

    Raises:
        NotFoundError: there is none of this path; the hint names some that are.
        IsADirectoryNodeError: it is a directory.
    """
    size = files.get(path)
    if size is not None:
        return size
    prefix = f"{path}/"
    if any(name.startswith(prefix) for name in files):
        raise IsADirectoryNodeError(f"{quoted(path)} is a directory of the model")
    raise NotFoundError(
        f"the model has no file {quoted(path)}", hint=_similar(files, path)
    )


def closed() -> LoadError:
    """Return the error for what is used too late."""
    return LoadError("the model is closed")


def no_memory(size: int) -> LoadError:
    """Return the error for `size` bytes that cannot be had."""
    return LoadError(f"there is no memory for {size} bytes")


def _similar(files: Mapping[str, int], path: str) -> str:
    """Name files of the same ending or the same name, or the first ones."""
    name = path.rpartition("/")[2]
    stem, _, ending = name.rpartition(".")
    near = [f for f in files if f.rpartition("/")[2] in {name, stem}]
    near += [f for f in files if f.endswith(f".{ending}") and f not in near]
    shown = [quoted(f) for f in (near or list(files))[:_SHOWN]]
    return f"it has {', '.join(shown)}" if shown else "it has no files"
