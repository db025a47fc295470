"""Unmounts a mount of ovfuse, stale or not, and waits until its daemon is gone.

Used by the unmount command and, for what an engine left behind, by the
lifecycle. Stateless; any thread. Nothing here looks inside the mount: a daemon
that is gone or hangs must not get in the way.
"""

import ctypes
import errno
import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Final

from ovfuse.errors import MountpointError, NotMountedError
from ovfuse.mountinfo import FILESYSTEM_TYPE
from ovfuse.quote import quoted
from ovfuse.serve.control import remove_dead_socket
from ovfuse.serve.holders import holders, named
from ovfuse.serve.mounts import find_mount, fusermount, resolve_mountpoint
from ovfuse.serve.readable import wait_readable
from ovfuse.serve.status import mount_status

__all__ = ["detach_mount", "unmount"]

_MNT_DETACH: Final = 2
_UMOUNT_NOFOLLOW: Final = 8
_WAIT_SECONDS: Final = 30
_RETRY_SECONDS: Final = 1.0
_RETRY_INTERVAL_SECONDS: Final = 0.05


def unmount(mountpoint: Path, *, lazy: bool = False) -> None:
    """Unmount, and return when the daemon has ended.

    Args:
        mountpoint: where the mount is.
        lazy: take it out of the tree now, even if files in it are open, which
            the daemon serves until they are closed.

    Raises:
        NotMountedError: there is no mount of ovfuse.
        MountpointError: it is busy, or belongs to another account.
    """
    resolved = resolve_mountpoint(mountpoint)
    mount = find_mount(resolved)
    if mount is None or mount.filesystem_type != FILESYSTEM_TYPE:
        raise NotMountedError(f"no ovfuse mount on {quoted(mountpoint)}")
    status = mount_status(mount)
    with _processes(status.pid, status.keeper) as processes:
        in_use = lazy and any(holders(resolved))
        _detach(resolved, lazy=lazy)
        for process in processes if not in_use else ():
            _wait_until_gone(process, status.pid)
        remove_dead_socket(resolved)


def detach_mount(mountpoint: Path) -> None:
    """Take the mount at this real path out of the tree, open files or not.

    Raises:
        MountpointError: the system refused.
    """
    _detach(mountpoint, lazy=True)


def _detach(mountpoint: Path, *, lazy: bool) -> None:
    deadline = time.monotonic() + _RETRY_SECONDS
    while True:
        if os.geteuid() == 0:
            reason = _unmount_as_root(mountpoint, lazy=lazy)
        else:
            reason = _unmount_as_user(mountpoint, lazy=lazy)
        if reason is None:
            return
        if os.strerror(errno.EBUSY) not in reason:  # fusermount3 says it among others
            raise MountpointError(f"cannot unmount {quoted(mountpoint)}: {reason}")
        found = list(holders(mountpoint))
        if found or time.monotonic() > deadline:
            break
        # Somebody's stat(2) in this moment makes a mount busy, too.
        time.sleep(_RETRY_INTERVAL_SECONDS)
    raise MountpointError(
        f"{quoted(mountpoint)} is busy: in use by {named(found)}",
        hint="end them, or use --lazy",
    )


def _unmount_as_root(mountpoint: Path, *, lazy: bool) -> str | None:
    libc = ctypes.CDLL(None, use_errno=True)
    flags = _UMOUNT_NOFOLLOW | (_MNT_DETACH if lazy else 0)
    if libc.umount2(os.fsencode(mountpoint), flags) == 0:
        return None
    return os.strerror(ctypes.get_errno())


def _unmount_as_user(mountpoint: Path, *, lazy: bool) -> str | None:
    options = ["-u", "-z"] if lazy else ["-u"]
    command = [fusermount(), *options, "--", os.fspath(mountpoint)]
    try:
        done = subprocess.run(  # noqa: S603  a list, no shell
            command, capture_output=True, text=True, errors="replace", check=False
        )
    except OSError as error:
        return f"fusermount3: {error.strerror}"
    if done.returncode == 0:
        return None
    return quoted(done.stderr.strip() or f"fusermount3 ended with {done.returncode}")


@contextmanager
def _processes(*pids: int | None) -> Iterator[list[int]]:
    """Give descriptors of processes, as far as there are any."""
    with ExitStack() as stack:
        found = []
        for pid in filter(None, pids):
            with suppress(OSError):
                found.append(os.pidfd_open(pid))
                stack.callback(os.close, found[-1])
        yield found


def _wait_until_gone(daemon: int, pid: int | None) -> None:
    if not wait_readable(daemon, _WAIT_SECONDS):
        raise MountpointError(
            f"it is unmounted, but the daemon (pid {pid}) has not ended",
            hint="it ends when no file is open any more, and no container or service "
            "has a mount namespace of its own with this mount in it",
        )
