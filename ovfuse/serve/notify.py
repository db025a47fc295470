"""What systemd is told: sd_notify(3), without a library.

Used by the lifecycle of a foreground mount. Stateless; any thread.
"""

import os
import socket
from contextlib import suppress

from ovfuse.quote import printable

__all__ = ["manager_address", "notify"]


def manager_address() -> str:
    """Return where the service manager listens; nothing if there is none."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if address.startswith("@"):  # of the abstract namespace
        return "\0" + address[1:]
    return address if address.startswith("/") else ""


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
