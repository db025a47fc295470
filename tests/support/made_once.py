"""What takes long to make, once for all runs: below .cache."""

import fcntl
import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path

__all__ = ["made_once"]


def made_once(cache: Path, text: str, make: Callable[[Path], object]) -> Path:
    """Return a directory, made if there is none, or none that is whole.

    Args:
        cache: where it is kept, beside others of its kind.
        text: all that it depends on.
        make: fills the directory, which is not there yet.
    """
    found = cache / hashlib.sha256(text.encode()).hexdigest()[:16]
    cache.mkdir(parents=True, exist_ok=True)
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not found.is_dir():
            new = cache / "new"
            shutil.rmtree(new, ignore_errors=True)
            make(new)
            new.rename(found)
    return found
