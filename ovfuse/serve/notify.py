"""What systemd is told: sd_notify(3), without a library.

Used by a mount in the foreground and for errors of commands. Stateless; any thread.
"""

import os
import re
import socket
from contextlib import suppress

from ovfuse.quote import printable

__all__ = ["manager_address", "notify", "watchdog_seconds"]


def manager_address() -> str:
    """Return where the service manager listens; nothing if there is none."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if address.startswith("@"):  # of the abstract namespace
        return "\0" + address[1:]
    return address if address.startswith("/") else ""


def watchdog_seconds() -> float:
    """Return in what time it wants to hear WATCHDOG=1, again and again; 0: never."""
    microseconds = os.environ.get("WATCHDOG_USEC", "")
    watched = os.environ.get("WATCHDOG_PID", f"{os.getpid()}")
    is_ours = watched in {f"{os.getpid()}", f"{os.getppid()}"}
    is_said = is_ours and re.fullmatch("[1-9][0-9]{0,15}", microseconds)
    return int(microseconds) / 1e6 if is_said else 0.0


def notify(**fields: str | int) -> None:
    """Send the fields, as in `notify(READY=1)`, to whoever started this process.

    Nothing happens without $NOTIFY_SOCKET; a service manager that does not
    listen is no reason to stop serving.
    """
    address = manager_address()
    if not address:
        return
    message = "\n".join(f"{k}={printable(str(v))}" for k, v in fields.items())
    with (
        suppress(OSError),
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as to,
    ):
        to.sendto(message.encode("utf-8", "replace"), address)
