"""Log lines with fields, for the journal: its native protocol, without a library.

Used by the logs of a mount. One datagram per line, each field `NAME=value` and a line
break; a value with line breaks has its length before it instead. See systemd's
"Native Journal Protocol". Threading: as the logging module's.
"""

import logging
import os
import socket
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from ovfuse.events import FACTS, Event
from ovfuse.quote import printable

__all__ = ["JOURNAL", "JournalHandler", "encode_fields", "writes_to_journal"]

JOURNAL: Final = Path("/run/systemd/journal/socket")
_MAX_VALUE_SIZE: Final = 8 * 1024
"""Far below what a datagram may be, with all fields together."""
_TIMEOUT_SECONDS: Final = 1.0
"""A journal that does not read must not keep those waiting who open a file."""
_PRIORITIES: Final = (
    (logging.CRITICAL, 2),
    (logging.ERROR, 3),
    (logging.WARNING, 4),
    (logging.INFO, 6),
)
_OF_PROCESSES: Final = frozenset({Event.OPENED, Event.DENIED})


def writes_to_journal(descriptor: int = 2) -> bool:
    """Tell whether systemd connected this descriptor, stderr's, to the journal."""
    try:
        status = os.fstat(descriptor)
    except OSError:
        return False
    stream = f"{status.st_dev}:{status.st_ino}"
    return os.environ.get("JOURNAL_STREAM") == stream


class JournalHandler(logging.Handler):
    """Sends each line to the journal; if that is not there, elsewhere.

    Args:
        mountpoint: what the lines are about.
        fallback: gets the lines that the journal does not take.
        is_service: whether systemd started this process, so that the journal knows
            processes by the same numbers.
        address: of the journal's socket.
    """

    def __init__(
        self,
        mountpoint: Path,
        fallback: logging.Handler,
        *,
        is_service: bool,
        address: Path = JOURNAL,
    ) -> None:
        super().__init__()
        self._address = os.fspath(address)
        self._fallback = fallback
        self._mountpoint = os.fspath(mountpoint)
        self._names_objects = is_service and os.geteuid() == 0
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.settimeout(_TIMEOUT_SECONDS)

    def emit(self, record: logging.LogRecord) -> None:
        """Send one line."""
        try:
            self._socket.sendto(encode_fields(self._fields(record)), self._address)
        except OSError:
            self._fallback.handle(record)

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()
        super().close()

    def _fields(self, record: logging.LogRecord) -> dict[str, str]:
        fields = {
            "MESSAGE": self.format(record),
            "PRIORITY": f"{_priority(record.levelno)}",
            "SYSLOG_IDENTIFIER": "ovfuse",
            "SYSLOG_PID": f"{os.getpid()}",
            "OVFUSE_MOUNTPOINT": self._mountpoint,
        }
        event, facts = getattr(record, "event", None), getattr(record, "facts", {})
        if isinstance(event, Event):
            fields["MESSAGE_ID"] = event.value
        for name in FACTS:
            if (value := facts.get(name, "")) != "":
                fields[f"OVFUSE_{name.upper()}"] = f"{value}"
        if event in _OF_PROCESSES and self._names_objects and facts.get("pid"):
            # The journal, which may, adds OBJECT_EXE and the like; root is believed.
            fields["OBJECT_PID"] = f"{facts['pid']}"
        return fields


def encode_fields(fields: Mapping[str, str]) -> bytes:
    """Return the datagram; values are printable, and cut if they are very long."""
    return b"".join(_encode(name, value) for name, value in fields.items())


def _encode(name: str, value: str) -> bytes:
    raw = printable(value).encode("utf-8", "replace")
    if len(raw) > _MAX_VALUE_SIZE:
        raw = raw[:_MAX_VALUE_SIZE].decode("utf-8", "ignore").encode() + "…".encode()
    if b"\n" in raw:
        return b"%b\n%b%b\n" % (name.encode(), struct.pack("<Q", len(raw)), raw)
    return b"%b=%b\n" % (name.encode(), raw)


def _priority(level: int) -> int:
    return next((number for least, number in _PRIORITIES if level >= least), 7)
