"""Reading from what may be slow, endless or hung: bounded in size and in time."""

import os
import select
import time

from ovfuse.errors import KeyFileError
from ovfuse.keys.sources.contract import MAX_SIZE
from ovfuse.memory import wipe
from ovfuse.quote import quoted
from ovfuse.secret import Secret

__all__ = ["fill", "read_to_end", "taken"]


def read_to_end(fd: int, label: str, seconds: float) -> Secret:
    """Return all that comes from a descriptor.

    Raises:
        KeyFileError: as `fill`.
    """
    buffer = bytearray(MAX_SIZE)
    return taken(buffer, fill(fd, memoryview(buffer), label, seconds))


def fill(fd: int, buffer: memoryview, label: str, seconds: float) -> int:
    """Read to the end, straight into a buffer; return how much it was.

    Raises:
        KeyFileError: it is more, does not end in time or cannot be read; the buffer
            is zeros then.
    """
    done = 0
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    deadline = time.monotonic() + seconds
    try:
        while True:
            if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
                raise KeyFileError(
                    f"{quoted(label)} does not end within {seconds:g} seconds"
                )
            with buffer[done:] as rest:
                is_full = not rest
                count = len(os.read(fd, 1)) if is_full else os.readv(fd, [rest])
            if count == 0:
                return done
            if is_full:
                raise KeyFileError(f"{quoted(label)} gives more than a key needs")
            done += count
    except OSError as error:
        wipe(buffer)
        raise KeyFileError(f"{quoted(label)}: {error.strerror}") from None
    except KeyFileError:
        wipe(buffer)
        raise


def taken(buffer: bytearray, size: int) -> Secret:
    """Return the first bytes of a buffer, which is zeros then."""
    with memoryview(buffer) as view:
        secret = Secret(view[:size])
        wipe(view)
    return secret
