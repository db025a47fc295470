"""A file of the model as Python's own kind of file: read-only and seekable."""

import io
import os
from collections.abc import Callable
from typing import Final

__all__ = ["PositionalFile"]

ReadInto = Callable[[int, memoryview], int]


class PositionalFile(io.RawIOBase):
    """A cursor over positional reads.

    Args:
        read_into: fills a buffer of bytes from an offset; short only at the end.
        size: of the file in bytes.
        on_close: called once.
    """

    def __init__(
        self, read_into: ReadInto, size: int, on_close: Callable[[], None]
    ) -> None:
        self._read_into = read_into
        self._size: Final = size
        self._on_close = on_close
        self._position = 0

    def readable(self) -> bool:
        """True."""
        return True

    def seekable(self) -> bool:
        """True."""
        return True

    def readinto(self, buffer: "bytearray | memoryview", /) -> int:  # type: ignore[override]  # typing has no Buffer before 3.12
        """Fill a buffer from the cursor; return the number of bytes, 0 at the end.

        Raises:
            DamagedError, CipherdirError: see `Source.read_into`.
            ValueError: the file is closed.
        """
        self._check_open()
        with memoryview(buffer) as view, view.cast("B") as target:
            count = self._read_into(self._position, target)
        self._position += count
        return count

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        """Move the cursor, perhaps beyond the end; return where it is.

        Raises:
            ValueError: it would be negative, or the file is closed.
        """
        self._check_open()
        bases = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}
        if whence not in bases:
            raise ValueError("whence is 0, 1 or 2")
        position = bases[whence] + offset
        if position < 0:
            raise ValueError("negative position")
        self._position = position
        return position

    def tell(self) -> int:
        """Return where the cursor is."""
        self._check_open()
        return self._position

    def close(self) -> None:
        """Close it; a second call does nothing."""
        if not self.closed:
            try:
                self._on_close()
            finally:
                super().close()

    def _check_open(self) -> None:
        if self.closed:
            raise ValueError("the file is closed")
