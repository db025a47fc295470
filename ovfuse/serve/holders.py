"""Who uses what is in a mount, as far as this process may look.

Used by unmount and lock. Stateless; any thread. Nothing here looks inside the mount.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from os import fspath
from pathlib import Path
from typing import Final

from ovfuse.quote import quoted

__all__ = ["holders", "mappers", "named"]

_MAX_NAMED: Final = 5


def holders(mountpoint: Path) -> Iterator[str]:
    """Yield the processes that use something in there."""
    return _processes(mountpoint, _used_paths)


def mappers(mountpoint: Path) -> Iterator[str]:
    """Yield the processes that have something in there mapped."""
    return _processes(mountpoint, _mapped_paths)


def named(found: list[str]) -> str:
    """Return some of them, for a message."""
    names = ", ".join(found[:_MAX_NAMED]) or "a process that cannot be seen"
    more = len(found) - _MAX_NAMED
    return f"{names} and {more} more" if more > 0 else names


def _processes(
    mountpoint: Path, paths: Callable[[Path], Iterable[str]]
) -> Iterator[str]:
    prefix = fspath(mountpoint)
    for process in Path("/proc").iterdir():
        if process.name.isdecimal() and any(
            path == prefix or path.startswith(f"{prefix}/") for path in paths(process)
        ):
            name = "?"
            with suppress(OSError):
                name = (process / "comm").read_text(errors="replace").strip()
            yield f"{quoted(name)} (pid {process.name})"


def _used_paths(process: Path) -> Iterator[str]:
    with suppress(OSError):  # it ended, or is another account's
        for link in ("cwd", "root", "exe"):
            yield fspath((process / link).readlink())
        for descriptor in (process / "fd").iterdir():
            with suppress(FileNotFoundError):
                yield fspath(descriptor.readlink())
    yield from _mapped_paths(process)


def _mapped_paths(process: Path) -> Iterator[str]:
    with suppress(OSError):
        for line in (process / "maps").read_text(errors="replace").splitlines():
            yield "/" + line.partition("/")[2]
