"""Which sealed models a cipherdir holds, by place; nothing is unlocked here.

A directory with a pointer or `seals` is a sealed model and a leaf. Symbolic links are
not followed, unsealed files are not shown.
"""

import logging
import os
from collections.abc import Iterable, Iterator
from typing import Final

from ovfuse.errors import CipherdirError, DamagedError
from ovfuse.quote import quoted
from ovfuse.sealed import beneath
from ovfuse.sealed.opening import SealedModel
from ovfuse.sealed.paths import is_path

__all__ = ["FoundModel", "find_models", "fitting_places"]

_log = logging.getLogger(__name__)

_MODELS_MAX: Final = 100_000

FoundModel = tuple[str, int]
"""Place in the tree, and mtime of the directory in nanoseconds."""


def find_models(cipherdir_fd: int, told: set[str] | None = None) -> list[FoundModel]:
    """Return the sealed models of a tree, sorted; a single one has the place "".

    A directory that cannot be read counts as a model, whose refusal then says why.

    Args:
        cipherdir_fd: of the whole cipherdir.
        told: directories that were warned of before; those warned of now are added.

    Raises:
        CipherdirError: the cipherdir cannot be read, or has too many models.
    """
    found = []
    for model in _find(cipherdir_fd, "", set() if told is None else told):
        found.append(model)
        if len(found) > _MODELS_MAX:
            raise CipherdirError(f"more than {_MODELS_MAX} sealed models")
    return sorted(found)


def _find(directory_fd: int, place: str, told: set[str]) -> Iterator[FoundModel]:
    mtime_ns = os.fstat(directory_fd).st_mtime_ns
    try:
        if SealedModel(directory_fd).is_sealed():
            yield place, mtime_ns
            return
        with os.scandir(directory_fd) as entries:
            names = [e.name for e in entries if e.is_dir(follow_symlinks=False)]
    except OSError as error:
        if not place:
            raise CipherdirError(f"the cipherdir: {error.strerror}") from None
        yield place, mtime_ns
        return
    for name in names:
        path = f"{place}/{name}" if place else name
        if is_path(path):
            yield from _find_below(directory_fd, name, path, told)
        elif path not in told:
            told.add(path)
            _log.warning(
                "skipped a directory that no model can be in: %s", quoted(path)
            )


def _find_below(
    parent_fd: int, name: str, path: str, told: set[str]
) -> Iterator[FoundModel]:
    try:
        fd = beneath.open_directory(name, parent_fd, "directory")
    except CipherdirError:
        yield path, 0
        return
    except DamagedError:  # gone or replaced since it was listed
        return
    try:
        yield from _find(fd, path, told)
    finally:
        os.close(fd)


def fitting_places(places: Iterable[str]) -> list[str]:
    """Return those that one tree can have, sorted: no model is in another one.

    Args:
        places: those that come earlier are preferred.
    """
    fitting: dict[str, None] = {}
    for place in places:
        if not any(_is_within(place, p) or _is_within(p, place) for p in fitting):
            fitting[place] = None
    return sorted(fitting)


def _is_within(place: str, other: str) -> bool:
    return place != other and (not other or place.startswith(f"{other}/"))
