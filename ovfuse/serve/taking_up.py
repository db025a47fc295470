"""What a mount finds of the one before it: gone on with, or cleaned up.

Used by the lifecycle, before it forks. Stateless; main thread.
"""

import logging
import select
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ovfuse.errors import MountFailedError, OvfuseError
from ovfuse.keeping import Keeping, Record
from ovfuse.mountinfo import FILESYSTEM_TYPE, Mount
from ovfuse.quote import quoted
from ovfuse.serve.control import remove_dead_socket
from ovfuse.serve.mounts import find_mount, is_stale
from ovfuse.serve.unmount import detach_mount

if TYPE_CHECKING:
    from ovfuse.serve.survival.channel import Records
    from ovfuse.serve.survival.store import Store

__all__ = [
    "DEVICE_RECORD",
    "check_premounted",
    "clean_up_after_death",
    "numbers_before",
    "take_up",
]

_log = logging.getLogger(__name__)

DEVICE_RECORD: Final = "device"
"""The record with the numbers of the mount's device and of its daemon."""


def take_up(
    store: "Store", plan: Mapping[str, Any], mountpoint: Path, *, may_unmount: bool
) -> "Records | None":
    """Return what the last keeper left; if nobody can go on, leave nothing of it.

    Args:
        store: where it left it.
        plan: what is to be mounted, and how.
        mountpoint: a real path.
        may_unmount: otherwise, what is stale is left to whoever may.
    """
    records = store.take(plan)
    mounted = find_mount(mountpoint)
    if mounted is not None and _is_left_of(mounted, records):
        return records
    if records:
        _log.warning("nothing is mounted of what was left: it is mounted anew")
    for record in records.values():
        record.close()
    store.clear()
    places = {mountpoint, Path(store.place_before or mountpoint)}
    for place in places if may_unmount else ():
        clean_up_after_death(place)
    return None


def _is_left_of(mount: Mount, records: "Records") -> bool:
    """Tell whether a mount is what was left, whole and connected to the kernel."""
    if not {"connection", DEVICE_RECORD, "ledger"} <= records.keys():
        return False
    poll = select.poll()
    poll.register(records["connection"].fds[0], 0)
    is_connected = not poll.poll(0)
    return is_connected and mount.device == _numbers_in(records[DEVICE_RECORD])[0]


def check_premounted(mountpoint: Path, connection: int | None) -> None:
    """Check what was mounted for this start.

    Raises:
        MountFailedError: there is nothing, or it cannot be seen.
    """
    mount = find_mount(mountpoint)
    if connection is None:
        raise MountFailedError(
            "nothing was mounted for this start",
            hint="-o premounted is for a unit as systemd/sandboxed.conf makes it",
        )
    if mount is None or mount.filesystem_type != FILESYSTEM_TYPE:
        raise MountFailedError(
            f"the mount on {quoted(mountpoint)} cannot be seen from here",
            hint="choose a place that the unit's sandbox does not hide, as below /srv",
        )


def numbers_before(
    keeping: Keeping, mountpoint: Path, *, premounted: bool
) -> tuple[int | None, int]:
    """Return the mount's device, if it was mounted before, and how many served it."""
    for _, record in keeping.take(DEVICE_RECORD):
        device, restarts = _numbers_in(record)
        return device, restarts + 1
    mount = find_mount(mountpoint) if premounted else None
    return mount.device if mount is not None else None, 0


def _numbers_in(record: Record) -> tuple[int, int]:
    device, restarts = bytes(record.data).split()
    return int(device), int(restarts)


def clean_up_after_death(mountpoint: Path) -> None:
    """Unmount what a daemon left that was killed between mounting and `ready`."""
    left = find_mount(mountpoint)
    if left and left.filesystem_type == FILESYSTEM_TYPE and is_stale(mountpoint):
        with suppress(OvfuseError):
            detach_mount(mountpoint)
    remove_dead_socket(mountpoint)
