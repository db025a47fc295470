"""Tells the kernel what to forget.

Used in a thread that serves no request: the kernel may wait for requests that are
being served before it takes a notification.
"""

import errno
import logging
import os
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from ovfuse.errors import describe
from ovfuse.serve.kernel import wire
from ovfuse.serve.kernel.wire import InitFlag, Notification

if TYPE_CHECKING:
    from ovfuse.serve.known_nodes import NodeTable
    from ovfuse.serve.open_files import OpenFiles
    from ovfuse.serve.survival.ledger import Ledger
    from ovfuse.view.contract import Change

__all__ = ["Notifier"]

_log = logging.getLogger(__name__)

_ATTRIBUTES_ALONE: Final = -1
_NO_MATTER: Final = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ENODEV})
"""It does not know the thing, or is not connected any more."""


class Notifier:
    """Writes notifications to the connection `fd`."""

    def __init__(self, fd: int, nodes: "NodeTable", files: "OpenFiles") -> None:
        self._fd = fd
        self._nodes, self._files = nodes, files

    def tell(self, changes: "Sequence[Change]") -> None:
        """Make the kernel ask again for names and attributes; forget what is gone."""
        self._tell((*changes, *self._nodes.gone()), _ATTRIBUTES_ALONE)
        self._nodes.forget_lost(self._is_known)
        self._files.close_lost(self._is_known)

    def _is_known(self, number: int) -> bool:
        body = wire.INVAL_INODE_OUT.pack(number, _ATTRIBUTES_ALONE, 0)
        return self._send(Notification.INVAL_INODE, body) != errno.ENOENT

    def forget_all(self) -> None:
        """Make the kernel drop all names and pages that it was ever given."""
        self._tell(self._nodes.everything(), 0)

    def _tell(self, changes: "Sequence[Change]", offset: int) -> None:
        for change in changes:
            for name in change.names:
                head = wire.INVAL_ENTRY_OUT.pack(change.directory, len(name), 0)
                self._send(Notification.INVAL_ENTRY, head + name + b"\0")
            body = wire.INVAL_INODE_OUT.pack(change.directory, offset, 0)
            self._send(Notification.INVAL_INODE, body)

    def take_up(self, flags: InitFlag, ledger: "Ledger") -> None:
        """Have requests that a predecessor was at work on sent again.

        Kernels older than Linux 6.9 cannot: there, these fail.
        """
        if flags & InitFlag.HAS_RESEND:
            self._send(Notification.RESEND, b"")
            return
        for unique in ledger.unanswered:
            reply = wire.OUT_HEADER.pack(wire.OUT_HEADER.size, -errno.EIO, unique)
            with suppress(OSError):  # it was answered already, or never read
                os.write(self._fd, reply)

    def _send(self, kind: Notification, body: bytes) -> int:
        """Return the error, which is 0 if there was none."""
        size = wire.OUT_HEADER.size + len(body)
        try:
            os.write(self._fd, wire.OUT_HEADER.pack(size, kind, 0) + body)
        except OSError as error:
            if error.errno not in _NO_MATTER:
                _log.error("a notification was refused: %s", describe(error))
            return error.errno or errno.EIO
        return 0
