"""What must hold before anything is mounted: each fault its own line and hint.

Used by the lifecycle, before it forks. Stateless; any thread. Where an ordinary
user may mount is fusermount3's rule; asking it here gives a better message.
"""

import errno
import os
import shlex
import stat
from pathlib import Path
from typing import Final

from ovfuse.errors import MountFailedError, MountpointError
from ovfuse.quote import quoted
from ovfuse.serve.mounts import find_mount, is_stale, resolve_mountpoint

__all__ = ["check_fuse", "check_mountpoint"]

_DEVICE: Final = Path("/dev/fuse")
_FUSE_CONF: Final = Path("/etc/fuse.conf")


def check_mountpoint(mountpoint: Path, cipherdir: Path) -> Path:
    """Return the real path of the mountpoint if it can be mounted on.

    Raises:
        MountpointError: it cannot, and why.
    """
    resolved = resolve_mountpoint(mountpoint)
    mounted = find_mount(resolved)
    if mounted is not None:
        if is_stale(resolved):
            raise MountpointError(
                f"the daemon of the mount on {quoted(mountpoint)} is gone",
                hint=f"ovfuse unmount {_for_shell(mountpoint)}",
            )
        kind = quoted(mounted.filesystem_type)
        raise MountpointError(
            f"{quoted(mountpoint)} is a mountpoint already, of type {kind}",
            hint="choose another directory, or unmount it first",
        )
    _check_apart(resolved, Path(os.path.realpath(cipherdir)), mountpoint)
    _check_directory(resolved, mountpoint)
    if os.geteuid() != 0:
        _check_permission(resolved, mountpoint)
    return resolved


def check_fuse(*, allow_other: bool) -> None:
    """Raise MountFailedError if this machine or this account has no FUSE."""
    if not _DEVICE.exists():
        raise MountFailedError(
            f"there is no {_DEVICE}",
            hint="modprobe fuse; in a container, pass --device /dev/fuse to it",
        )
    if allow_other and os.geteuid() != 0 and not _user_allow_other():
        raise MountFailedError(
            "-o allow_other is for root only on this machine",
            hint=f"add the line user_allow_other to {_FUSE_CONF}",
        )


def _check_apart(mountpoint: Path, cipherdir: Path, shown: Path) -> None:
    # Either way the mount would hide, or show itself inside, what it serves.
    if mountpoint.is_relative_to(cipherdir):
        raise MountpointError(
            f"{quoted(shown)} is inside the cipherdir",
            hint="mount on a directory elsewhere",
        )
    if cipherdir.is_relative_to(mountpoint):
        raise MountpointError(
            f"the cipherdir is inside {quoted(shown)}, which would hide it",
            hint="mount on a directory elsewhere",
        )


def _check_directory(mountpoint: Path, shown: Path) -> None:
    try:
        empty = next(mountpoint.iterdir(), None) is None
    except FileNotFoundError:
        raise MountpointError(
            f"{quoted(shown)} does not exist", hint=f"mkdir {_for_shell(shown)}"
        ) from None
    except NotADirectoryError:
        raise MountpointError(f"{quoted(shown)} is not a directory") from None
    except OSError as error:
        reason = errno.errorcode.get(error.errno or 0, "?")
        raise MountpointError(f"{quoted(shown)} cannot be read: {reason}") from error
    if not empty:
        raise MountpointError(
            f"{quoted(shown)} is not empty", hint="mount on an empty directory"
        )


def _check_permission(mountpoint: Path, shown: Path) -> None:
    status = mountpoint.stat()
    sticky_of_another = status.st_mode & stat.S_ISVTX and status.st_uid != os.getuid()
    if sticky_of_another or not os.access(mountpoint, os.W_OK):
        raise MountpointError(
            f"an ordinary user may not mount on {quoted(shown)}",
            hint="it must be a directory of yours that you can write to",
        )


def _for_shell(path: Path) -> str:
    return shlex.quote(os.fspath(path))


def _user_allow_other() -> bool:
    try:
        lines = _FUSE_CONF.read_text(errors="replace").splitlines()
    except OSError:
        return False
    return any(line.strip() == "user_allow_other" for line in lines)
