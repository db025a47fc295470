"""What an engine is: it serves one view at one mountpoint until it is stopped.

Implemented by the modules of the engines, used by the lifecycle. Threading: `run`
is called once, `stop` by another thread, at any time.
"""

import os
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from ovfuse.keeping import Keeping, NothingKept
from ovfuse.serve.audit import Audit
from ovfuse.serve.gate import Gate
from ovfuse.serve.resident.usage import Usage

if TYPE_CHECKING:
    from ovfuse.serve.failures import Failures
    from ovfuse.serve.options import MountOptions
    from ovfuse.view.contract import View

__all__ = ["Engine", "Setup", "mount_words", "words_of"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """What an engine needs to know.

    Attributes:
        view: what it serves; it does not close it.
        cipherdir: shown as the source of the mount.
        mountpoint: a real path that was checked.
        options: what the user asked for.
        failures: told of everything that goes wrong.
        audit: told of every file that is opened.
        usage: told of what is in memory for the kernel to serve.
        keeping: told of what a successor needs.
        gate: passed by all that asks for content.
        device: the number of the mount's device, if it was made before.
        restarts: how many daemons served the mount before this one.
        goes_on: set by the engine when it serves.
        connection: to the kernel, of a mount that was made for this.
    """

    view: "View"
    cipherdir: Path
    mountpoint: Path
    options: "MountOptions"
    failures: "Failures"
    audit: Audit = field(default_factory=Audit)
    usage: Usage = field(default_factory=Usage)
    keeping: Keeping = field(default_factory=NothingKept)
    gate: Gate = field(default_factory=Gate)
    device: int | None = None
    restarts: int = 0
    goes_on: threading.Event = field(default_factory=threading.Event)
    connection: int | None = None


class Engine(Protocol):
    """A way to serve a view over FUSE."""

    def run(self) -> None:
        """Mount, serve, and return when nothing is mounted any more.

        Raises:
            MountFailedError: it could not be mounted, or the serving broke off.
        """

    def take_back(self, *, force: bool) -> bool:
        """Take back what the kernel has of plaintext, and close the gate.

        It is paused, and nobody is inside.

        Args:
            force: also what is in use.

        Returns:
            whether it was done; else something is in use, and all is as it was.

        Raises:
            MountFailedError: this engine cannot.
        """

    def stop(self) -> None:
        """Ask `run` to return; does not wait, and is called until it has."""


def mount_words(setup: Setup) -> dict[str, str | bool]:
    """Return the options that every engine passes to mount(2) or fusermount3.

    Backslashes and commas in a value are escaped, as both libfuse and
    fusermount3 read them.
    """
    return words_of(setup.cipherdir, setup.options)


def words_of(cipherdir: Path, options: "MountOptions") -> dict[str, str | bool]:
    """Return the same, of what a Setup would have."""
    source = os.fsencode(cipherdir).decode("utf-8", "surrogateescape")
    return {
        "fsname": source.replace("\\", "\\\\").replace(",", "\\,"),
        "subtype": "ovfuse",
        "ro": True,
        "nosuid": True,
        "nodev": True,
        "noexec": options.noexec,
        "default_permissions": True,
        "allow_other": options.allow_other,
    }
