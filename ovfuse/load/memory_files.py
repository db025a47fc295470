"""Files that are only memory, for the formats that OpenVINO takes by path alone.

Each is a memfd: it has no name in any file system, nobody else can open it, and it is
gone with its last descriptor and mapping. Formats that are told by their suffix get a
private directory of links to /proc/self/fd/N, with names of ours, while OpenVINO reads.
Killed in that moment it stays behind: dangling links, and no name of the model's.
"""

import fcntl
import mmap
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Self

from ovfuse.load.source import no_memory

__all__ = ["Fill", "MemoryFile", "linked"]

Fill = Callable[[memoryview], None]
"""Writes a file's content into its memory."""

_MFD_NOEXEC_SEAL: Final = 0x8  # Linux 6.3
_SEALS: Final = (
    fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL
)
_DESCRIPTORS: Final = Path("/proc/self/fd")


class MemoryFile:
    """A file in memory, closed to changes. A context manager: leaving it closes it.

    What has mapped it keeps its memory.

    Args:
        size: in bytes.
        fill: called once.

    Raises:
        LoadError: there is not so much memory.
        OvfuseError: what `fill` raises; nothing is left then.
    """

    def __init__(self, size: int, fill: Fill) -> None:
        self._fd = _create()
        try:
            _write(self._fd, size, fill)
            fcntl.fcntl(self._fd, fcntl.F_ADD_SEALS, _SEALS)
        except BaseException:
            os.close(self._fd)
            raise

    @property
    def path(self) -> Path:
        """Where this process can open it."""
        return _DESCRIPTORS / str(self._fd)

    def view(self) -> memoryview:
        """Return its content, read-only; that outlives closing."""
        size = os.fstat(self._fd).st_size
        if size == 0:
            return memoryview(b"")
        return memoryview(mmap.mmap(self._fd, size, prot=mmap.PROT_READ))

    def close(self) -> None:
        """Close it; a second call does nothing."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@contextmanager
def linked(files: Mapping[str, MemoryFile]) -> Iterator[Path]:
    """Give a directory, this account's alone, in which the files have these names.

    Args:
        files: by path in the directory; the names are ours, never the model's.
    """
    with tempfile.TemporaryDirectory(prefix="ovfuse-") as directory:
        root = Path(directory)
        for name, file in files.items():
            link = root / name
            link.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            link.symlink_to(file.path)
        yield root


def _create() -> int:
    flags = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
    try:
        return os.memfd_create("ovfuse", flags | _MFD_NOEXEC_SEAL)
    except OSError:  # an older kernel
        return os.memfd_create("ovfuse", flags)


def _write(fd: int, size: int, fill: Fill) -> None:
    if size == 0:
        return
    try:
        os.posix_fallocate(fd, 0, size)  # or running out of memory would be a SIGBUS
    except OSError:
        raise no_memory(size) from None
    memory = mmap.mmap(fd, size)
    memory.madvise(mmap.MADV_DONTDUMP)
    fill(memoryview(memory))
    memory.close()  # or it could not be sealed
