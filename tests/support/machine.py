"""What belongs to the whole machine: one test at a time, whoever runs it."""

import fcntl
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["alone_on_the_machine", "core_files_in"]

_PLACE = "/var/tmp"
_CORE_PATTERN = Path("/proc/sys/kernel/core_pattern")

# At the end of its input as well.
_RESTORE = 'trap "" HUP INT TERM; read -r _; printf %s "$2" >"$1"'


@contextmanager
def alone_on_the_machine() -> Iterator[None]:
    """Wait until no other test run is in here."""
    place = os.open(_PLACE, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(place, fcntl.LOCK_EX)
        yield
    finally:
        os.close(place)


@contextmanager
def core_files_in(directory: Path) -> Iterator[None]:
    """Have every process that dumps core do it there, whatever becomes of this one.

    Raises:
        OSError: nobody can say here where they go.
    """
    with alone_on_the_machine():
        before = _CORE_PATTERN.read_text().rstrip("\n")
        _CORE_PATTERN.write_text(f"{directory}/core.%p")
        with subprocess.Popen(
            ["sh", "-c", _RESTORE, "sh", _CORE_PATTERN, before],
            stdin=subprocess.PIPE,
            start_new_session=True,
        ):
            yield
        assert _CORE_PATTERN.read_text().rstrip("\n") == before
