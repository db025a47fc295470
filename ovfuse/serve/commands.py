"""What the daemon of a mount is asked to do, by whoever may: the client's half.

Used by the commands. Stateless; any thread. Nothing here looks inside the mount.
"""

import time
from pathlib import Path
from typing import Any, Final

from ovfuse.errors import MountFailedError, NotMountedError
from ovfuse.mountinfo import FILESYSTEM_TYPE, Mount
from ovfuse.quote import quoted
from ovfuse.serve.mounts import find_mount, resolve_mountpoint
from ovfuse.serve.status import SERVING, MountStatus, ask_daemon, mount_status

__all__ = ["reload"]

_TIMEOUT_SECONDS: Final = 90.0
"""For the daemon to look into what it is asked."""
_WAIT_SECONDS: Final = 30.0
_INTERVAL_SECONDS: Final = 0.02


def reload(mountpoint: Path) -> None:
    """Have the program as it is installed now go on; return when it does.

    Args:
        mountpoint: absolute.

    Raises:
        NotMountedError: there is no mount of ovfuse.
        MountFailedError: its daemon refuses or does not answer; it serves on.
    """
    mount = _mount_at(mountpoint)
    before = mount_status(mount).pid
    _ask(mount, "reload")
    _wait_for_another(mount, before)


def _mount_at(mountpoint: Path) -> Mount:
    mount = find_mount(resolve_mountpoint(mountpoint))
    if mount is None or mount.filesystem_type != FILESYSTEM_TYPE:
        raise NotMountedError(f"no ovfuse mount on {quoted(mountpoint)}")
    return mount


def _ask(mount: Mount, command: str, **fields: object) -> dict[str, Any]:
    answer = ask_daemon(mount, command, timeout=_TIMEOUT_SECONDS, **fields)
    if answer is not None:
        return answer
    raise MountFailedError(
        f"the daemon of {quoted(mount.mountpoint)} does not answer",
        hint="ovfuse status tells more",
    )


def _wait_for_another(mount: Mount, before: int | None) -> MountStatus:
    deadline = time.monotonic() + _WAIT_SECONDS
    while time.monotonic() < deadline:
        status = mount_status(mount)
        if status.state == SERVING and status.pid != before:
            return status
        time.sleep(_INTERVAL_SECONDS)
    raise MountFailedError(f"nobody went on with {quoted(mount.mountpoint)}")
