"""What the daemon of a mount is asked to do, by whoever may: the client's half.

Used by the commands. Stateless; any thread. Nothing here looks inside the mount.
"""

import os
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from ovfuse.errors import MountFailedError, NotMountedError, OvfuseError
from ovfuse.mountinfo import FILESYSTEM_TYPE, Mount
from ovfuse.quote import quoted
from ovfuse.serve.mounts import find_mount, is_stale, resolve_mountpoint
from ovfuse.serve.status import LOCKED, SERVING, MountStatus, ask_daemon, mount_status

__all__ = ["lock", "reload", "unlock"]

_TIMEOUT_SECONDS: Final = 90.0
"""For the daemon to look into what it is asked."""
_AGAIN_SECONDS: Final = 5.0
"""Asked again meanwhile: a successor may only just begin."""
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
    _wait_for_another(mount, _ask(mount, "reload")["pid"])


def lock(mountpoint: Path, *, force: bool = False) -> None:
    """Have keys and plaintext of a mount dropped; return when it is locked.

    Args:
        mountpoint: absolute.
        force: also what is in use.

    Raises:
        NotMountedError: there is no mount of ovfuse.
        MountpointError: something of it is in use.
        MountFailedError: its daemon cannot or does not answer.
    """
    mount = _mount_at(mountpoint)
    answer = _ask(mount, "lock", force=force)
    if answer.get("ends"):
        _wait_for_another(mount, answer["pid"])


def unlock(
    mountpoint: Path, identities: Sequence[str] = (), passphrase: str | None = None
) -> None:
    """Have a locked mount serve again; return when it does.

    Args:
        mountpoint: absolute.
        identities: sources, of absolute paths; none: as when it was mounted.
        passphrase: to try, if there is one.

    Raises:
        NotMountedError: there is no mount of ovfuse.
        MountpointError: it is not locked.
        NoUsableKeyError: nothing of that opens it; it stays locked.
        OvfuseError: what is sealed there is not whole, or not to be trusted.
    """
    mount = _mount_at(mountpoint)
    before = mount_status(mount)
    words = list(identities)
    try:
        answer = _ask(mount, "unlock", identities=words, passphrase=passphrase)
    except OvfuseError:
        if before.state == LOCKED:  # it ended all the same, for what it had tried
            with suppress(MountFailedError):
                _wait_for_another(mount, before.pid)
        raise
    _wait_for_another(mount, answer["pid"])


def _mount_at(mountpoint: Path) -> Mount:
    mount = find_mount(resolve_mountpoint(mountpoint))
    if mount is None or mount.filesystem_type != FILESYSTEM_TYPE:
        raise NotMountedError(f"no ovfuse mount on {quoted(mountpoint)}")
    return mount


def _ask(mount: Mount, command: str, **fields: object) -> dict[str, Any]:
    deadline = time.monotonic() + _AGAIN_SECONDS
    is_ours = os.geteuid() in {0, mount.user_id or 0}
    while True:
        answer = ask_daemon(mount, command, timeout=_TIMEOUT_SECONDS, **fields)
        if answer is not None:
            return answer
        if not is_ours or time.monotonic() > deadline or is_stale(mount.mountpoint):
            break
        time.sleep(_INTERVAL_SECONDS)
    raise MountFailedError(
        f"the daemon of {quoted(mount.mountpoint)} does not answer",
        hint="ovfuse status tells more",
    )


def _wait_for_another(mount: Mount, before: int | None) -> MountStatus:
    deadline = time.monotonic() + _WAIT_SECONDS
    while time.monotonic() < deadline:
        status = mount_status(mount)
        if status.state in {SERVING, LOCKED} and status.pid != before:
            return status
        if find_mount(mount.mountpoint) is None:
            break  # it was unmounted meanwhile
        time.sleep(_INTERVAL_SECONDS)
    raise MountFailedError(f"nobody went on with {quoted(mount.mountpoint)}")
