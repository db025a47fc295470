"""A mount for a service that may not mount: made by root, just before its start.

Used by the premount command, which a sandboxed unit runs outside of its sandbox. The
service manager keeps the connection to the kernel and passes it on to the service,
which takes it for itself before it uses it (`survival.store`). Main thread of a process
that ends right after.
"""

import json
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from ovfuse.errors import MountFailedError, UsageError
from ovfuse.mountinfo import FILESYSTEM_TYPE
from ovfuse.serve.control import runtime_directory
from ovfuse.serve.engine import words_of
from ovfuse.serve.kernel.operations import MAX_READ
from ovfuse.serve.mounting import ask_kernel
from ovfuse.serve.mountpoint import check_fuse, check_mountpoint
from ovfuse.serve.mounts import find_mount, is_stale, resolve_mountpoint
from ovfuse.serve.options import parse_options
from ovfuse.serve.survival.store import Store, find_store
from ovfuse.serve.unmount import detach_mount

__all__ = ["premount"]

_STALE_SECONDS: Final = 0.2
"""A connection that is closed says so at once; one that waits does not answer."""


def premount(cipherdir: Path, mountpoint: Path, options: Sequence[str]) -> None:
    """Mount, unless what is mounted is what the service left; nobody answers yet.

    Args:
        cipherdir: what is to be served.
        mountpoint: an empty directory.
        options: as after `-o`.

    Raises:
        UsageError: no unit runs this, or not as root.
        MountpointError: the mountpoint is unsuitable.
        MountFailedError: FUSE refused.
    """
    store, note = _store_and_note()
    parsed = parse_options(options)
    source = Path(os.path.realpath(cipherdir))
    place = resolve_mountpoint(mountpoint)
    asked = {"cipherdir": f"{source}", "mountpoint": f"{place}"}
    asked |= {"options": "\n".join(options)}
    before = _read(note)
    if before == asked and _is_waiting(place):
        return
    left = Path(before.get("mountpoint", place))
    for old in {place, left}:
        if _is_mount(old) and is_stale(old) is not False:
            detach_mount(old)
    check_fuse(allow_other=parsed.allow_other)
    check_mountpoint(place, source)
    _write(note, asked)
    words = words_of(source, parsed)
    fd = ask_kernel(source, place, {w: v for w, v in words.items() if v}, MAX_READ)
    store.hand_over(fd)


def _store_and_note() -> tuple[Store, Path]:
    """Return the unit's store, and the file that says what was mounted for it."""
    store = find_store()
    name = Path(os.environ.get("RUNTIME_DIRECTORY", "").partition(":")[0]).name
    if os.geteuid() != 0 or store is None or not name:
        raise UsageError(
            "premount is for a unit of systemd that may not mount",
            hint="systemd/sandboxed.conf has one",
        )
    directory = runtime_directory()
    with suppress(FileExistsError):
        directory.mkdir(mode=0o700)
    return store, directory / f"{name}.premounted"


def _is_waiting(place: Path) -> bool:
    """Tell whether a mount is there that nobody serves, but somebody could."""
    return _is_mount(place) and is_stale(place, _STALE_SECONDS) is None


def _is_mount(place: Path) -> bool:
    mount = find_mount(place)
    return mount is not None and mount.filesystem_type == FILESYSTEM_TYPE


def _read(note: Path) -> dict[str, Any]:
    try:
        facts = json.loads(note.read_bytes())
    except (OSError, ValueError):
        return {}
    return facts if isinstance(facts, dict) else {}


def _write(note: Path, facts: Mapping[str, Any]) -> None:
    try:
        note.write_bytes(json.dumps(facts).encode("ascii"))
    except OSError as error:
        raise MountFailedError(f"{note}: {error.strerror}") from None
