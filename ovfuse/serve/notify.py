"""What systemd is told: sd_notify(3), without a library.

Used by the lifecycle of a foreground mount. Stateless; any thread.
"""

import os
import socket
from contextlib import suppress

from ovfuse.quote import printable

__all__ = ["notify"]


def notify(**fields: str | int) -> None:
    """Send the fields, as in `notify(READY=1)`, to whoever started this process.

    Nothing happens without $NOTIFY_SOCKET; a service manager that does not
    listen is no reason to stop serving.
    """
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return
    if address.startswith("@"):  # of the abstract namespace
        address = "\0" + address[1:]
    message = "\n".join(f"{k}={printable(str(v))}" for k, v in fields.items())
    with (
        suppress(OSError),
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as to,
    ):
        to.sendto(message.encode("utf-8", "replace"), address)
