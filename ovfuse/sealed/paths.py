"""Rules for the paths inside a model and for model names: no I/O.

Paths are kept as they are, without Unicode or case normalisation, and are
compared by their UTF-8 bytes.
"""

import re
from collections.abc import Iterable, Sequence
from itertools import pairwise

from ovfuse.errors import DamagedError
from ovfuse.sealed import layout

__all__ = ["check_tree", "is_model_name", "is_path", "parent_of", "sort_key"]

_VERSION_SUFFIX = re.compile(r"@[0-9]+\Z")


def sort_key(path: str) -> bytes:
    """Return the bytes by which paths are sorted."""
    return path.encode()


def parent_of(path: str) -> str:
    """Return the path of the directory that holds `path`; the root's is empty."""
    return path.rpartition("/")[0]


def is_path(text: str) -> bool:
    """Tell whether `text` may be a path inside a model."""
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        return False
    components = text.split("/")
    return (
        size <= layout.PATH_MAX_SIZE
        and len(components) <= layout.PATH_MAX_DEPTH
        and all(_is_component(component) for component in components)
    )


def _is_component(text: str) -> bool:
    if text in ("", ".", "..") or "\0" in text:
        return False
    return len(text.encode()) <= layout.COMPONENT_MAX_SIZE


def is_model_name(text: str) -> bool:
    """Tell whether `text` may be the signed name of a model."""
    return (
        is_path(text)
        and len(text.encode()) <= layout.MODEL_NAME_MAX_SIZE
        and _VERSION_SUFFIX.search(text) is None
    )


def check_tree(directories: Sequence[str], files: Sequence[str]) -> None:
    """Check that directories and files together are a tree, each list sorted.

    Raises:
        DamagedError: a path that is not allowed, out of order, twice, or an orphan.
    """
    known = {""}
    for path in directories:
        _check_place(path, known)
        known.add(path)
    for path in files:
        _check_place(path, known)
        if path in known:
            raise DamagedError("the manifest has a file and a directory of one path")
    _check_sorted(directories)
    _check_sorted(files)


def _check_place(path: str, directories: set[str]) -> None:
    if not is_path(path):
        raise DamagedError("the manifest has a path that is not allowed")
    if parent_of(path) not in directories:
        raise DamagedError("the manifest has a path whose directory is missing")


def _check_sorted(paths: Iterable[str]) -> None:
    if any(sort_key(a) >= sort_key(b) for a, b in pairwise(paths)):
        raise DamagedError("the manifest's paths are not sorted")
