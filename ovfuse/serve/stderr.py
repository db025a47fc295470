"""Standard error held back while libfuse and fusermount3 mount.

Both write there what went wrong; held back, it becomes part of one error line.
When all goes well it is dropped: libfuse remarks on its own defaults.
Used by the libfuse engine. Threading: `release` may be called by any thread,
more than once.
"""

import os
import threading

__all__ = ["HeldBackStderr"]

_STDERR = 2
_MAX_SIZE = 64 * 1024


class HeldBackStderr:
    """File descriptor 2 points to memory from now until `release`."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._memory = os.memfd_create("stderr")
        self._stderr: int | None = os.dup(_STDERR)
        os.dup2(self._memory, _STDERR)

    def release(self) -> str:
        """Put the descriptor back; return what was written meanwhile."""
        with self._lock:
            if self._stderr is None:
                return ""
            os.dup2(self._stderr, _STDERR)
            os.close(self._stderr)
            self._stderr = None
            written = os.pread(self._memory, _MAX_SIZE, 0)
            os.close(self._memory)
        return written.decode("utf-8", "surrogateescape")
