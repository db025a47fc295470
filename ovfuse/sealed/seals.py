"""The directory `seals`: what in it is ours, what is whole, and cleaning it.

Used by the writer of sealings. Nothing is taken for our own, and removed, that is not
named like it.
"""

import contextlib
import os
import stat
from pathlib import Path
from typing import Final

from ovfuse.errors import CipherdirError, DamagedError
from ovfuse.quote import quoted
from ovfuse.sealed import beneath, layout
from ovfuse.sealed.disk import remove_tree

__all__ = ["NEW_POINTER", "check_usable", "complete_sealings", "remove_others"]

NEW_POINTER: Final = "pointer.new"
"""A pointer that is being written: here, so that a rest of it is cleaned here."""


def check_usable(directory_fd: int, path: Path, *, empty: bool) -> None:
    """Refuse what is neither a sealed model nor the rest of a first sealing.

    A directory that is `empty` will do where a first sealing is to go into it.

    Without a pointer, what lies there may be anybody's: it is only taken for our
    own, and later removed, if it is named like it.
    """
    names = os.listdir(directory_fd)
    if layout.POINTER_NAME in names:
        return
    if not names and not empty:
        raise CipherdirError(f"no sealed model in {quoted(path)}")
    if set(names) <= {layout.SEALS_NAME}:
        rest = _listdir(layout.SEALS_NAME, directory_fd) if names else []
        if all(map(_is_ours, rest)):
            return
    raise CipherdirError(f"{quoted(path)} is not empty and holds no sealed model")


def _listdir(name: str, parent_fd: int) -> list[str]:
    try:
        fd = beneath.open_directory(name, parent_fd, "directory seals")
    except DamagedError:
        return [name]  # not a directory, so not ours
    try:
        return os.listdir(fd)
    finally:
        os.close(fd)


def _is_ours(name: str) -> bool:
    return name == NEW_POINTER or layout.is_id(name)


def complete_sealings(seals_fd: int) -> set[str]:
    """Return the sealings that were not interrupted.

    Their keys are written last, and their envelopes removed first.
    """
    return {name for name in os.listdir(seals_fd) if _is_complete(name, seals_fd)}


def _is_complete(name: str, seals_fd: int) -> bool:
    if not layout.is_id(name):
        return False
    with contextlib.suppress(OSError):
        modes = [
            os.stat(f"{name}/{part}", dir_fd=seals_fd, follow_symlinks=False).st_mode
            for part in (layout.ENVELOPE_NAME, layout.KEYS_NAME)
        ]
        return stat.S_ISREG(modes[0]) and stat.S_ISDIR(modes[1])
    return False


def remove_others(keep: set[str], seals_fd: int) -> int:
    """Remove what earlier and interrupted sealings left; return how many.

    Envelopes first: who is reading a sealing can tell by that why the rest is missing.
    """
    names = [n for n in os.listdir(seals_fd) if _is_ours(n) and n not in keep]
    for name in names:
        with contextlib.suppress(
            FileNotFoundError, NotADirectoryError, IsADirectoryError
        ):
            os.unlink(f"{name}/{layout.ENVELOPE_NAME}", dir_fd=seals_fd)
        remove_tree(name, seals_fd)
    return len(names)
