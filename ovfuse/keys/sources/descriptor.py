"""`fd:N`: what whoever started the program has opened for it.

A file can be read again. A pipe only once: for a mount, which looks again for each
sealing, its content is put into memory that the kernel shows to nobody, not even to the
kernel itself (memfd_secret(2)), and of which the keeper has no more than a descriptor.
"""

import ctypes
import fcntl
import mmap
import os
import stat
from dataclasses import dataclass
from typing import Final, Self

from ovfuse.errors import KeyFileError, UsageError
from ovfuse.keys.sources.contract import MAX_SIZE, Source
from ovfuse.keys.sources.reading import fill, read_to_end, taken
from ovfuse.quote import quoted
from ovfuse.secret import Secret

__all__ = ["DescriptorSource"]

_SECONDS: Final = 60.0
"""For who writes into a pipe; people may be asked for something there."""
_MAX: Final = 1 << 20
_STANDARD: Final = (0, 1, 2)
_MEMFD_SECRET: Final = 447
"""The number of the system call: the same everywhere, as of all that are so new."""

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class DescriptorSource(Source):
    """See `Source`.

    Args:
        number: of the descriptor, which stays open.
    """

    number: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the source of that number.

        Raises:
            UsageError: it is no number.
        """
        if not (text.isascii() and text.isdecimal()) or int(text[:8]) >= _MAX:
            raise UsageError(
                f"{quoted(f'fd:{text}')} is not the number of a descriptor"
            )
        return cls(int(text))

    @property
    def words(self) -> str:
        """What `parse_source` makes an equal one of."""
        return f"fd:{self.number}"

    @property
    def seconds(self) -> float:
        """How long who writes it may take; see `Source`."""
        return _SECONDS

    @property
    def is_here_only(self) -> bool:
        """Numbers of descriptors are of one process."""
        return True

    def read(self) -> Secret:
        """Return a file from its beginning, or what is left of a pipe."""
        if not self._is_file():
            return read_to_end(self.number, self.label, _SECONDS)
        size = os.fstat(self.number).st_size
        if size > MAX_SIZE:
            raise KeyFileError(f"{quoted(self.label)} is not a key file")
        buffer = bytearray(MAX_SIZE)
        try:
            return taken(buffer, os.preadv(self.number, [buffer], 0))
        except OSError as error:
            if not size:
                raise KeyFileError(f"{quoted(self.label)}: {error.strerror}") from None
        return self._mapped(size)

    def held(self) -> tuple[Source, tuple[int, ...]]:
        """Return one that can be read again; see `Source.held`.

        It has the same number, unless that is of a standard stream, which becomes
        /dev/null. No program that is started gets the descriptor.
        """
        is_file = self._is_file()
        source = self if self.number not in _STANDARD else self._moved()
        if not is_file:
            source.keep()
        os.set_inheritable(source.number, False)
        return source, (source.number,)

    def _is_file(self) -> bool:
        """Tell whether it can be read again.

        Raises:
            KeyFileError: it is not open, or a terminal.
        """
        try:
            mode = os.fstat(self.number).st_mode
            access = fcntl.fcntl(self.number, fcntl.F_GETFL) & os.O_ACCMODE
        except OSError as error:
            raise KeyFileError(f"{quoted(self.label)}: {error.strerror}") from None
        if access == os.O_WRONLY:
            raise KeyFileError(f"{quoted(self.label)} cannot be read, only written")
        if os.isatty(self.number):
            raise KeyFileError(
                f"{quoted(self.label)} is a terminal, which shows what is typed",
                hint="a passphrase is asked for there by passphrase:",
            )
        return stat.S_ISREG(mode)

    def _moved(self) -> "DescriptorSource":
        number = fcntl.fcntl(self.number, fcntl.F_DUPFD_CLOEXEC, len(_STANDARD))
        nothing = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        os.dup2(nothing, self.number)
        os.close(nothing)
        return DescriptorSource(number)

    def keep(self) -> None:
        """Put the content, which comes only once, in the place of the pipe."""
        memory = _libc.syscall(_MEMFD_SECRET, os.O_CLOEXEC)
        if memory < 0:
            raise KeyFileError(
                f"{quoted(self.label)} can be read only once, and a mount needs it for "
                "each new version: this kernel has no memory to keep it in",
                hint="a descriptor of a file, or command: can be read again",
            )
        try:
            os.ftruncate(memory, MAX_SIZE)
            with mmap.mmap(memory, MAX_SIZE) as mapped, memoryview(mapped) as view:
                fill(self.number, view, self.label, _SECONDS)
            os.dup2(memory, self.number, inheritable=False)
        except OSError as error:  # such as the memlock limit
            raise KeyFileError(
                f"{quoted(self.label)} cannot be kept in memory: {error.strerror}",
                hint="raise the memlock limit (ulimit -l)",
            ) from None
        finally:
            os.close(memory)

    def _mapped(self, size: int) -> Secret:
        """Return what `keep` has kept: it can only be mapped. No key has a NUL."""
        try:
            with mmap.mmap(self.number, size) as mapped, memoryview(mapped) as view:
                end = mapped.find(b"\0")
                return Secret(view[: end if end >= 0 else size])
        except (OSError, ValueError):
            raise KeyFileError(f"{quoted(self.label)} cannot be read") from None
