"""What the daemon of a mount is asked to do, by whoever may: the daemon's half.

Used by the lifecycle. What is done ends the process: its successor goes on. Threading:
any thread; one order at a time.
"""

import os
import signal
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ovfuse.errors import MountFailedError, MountpointError, OvfuseError
from ovfuse.keeping import Keeping
from ovfuse.quote import quoted
from ovfuse.serve.control import Answer, Command, failure
from ovfuse.serve.holders import holders, mappers, named
from ovfuse.serve.locked import Unlocking

if TYPE_CHECKING:
    from ovfuse.serve.engine import Engine, Setup
    from ovfuse.view.contract import View

__all__ = ["Orders"]

_QUIET_SECONDS: Final = 10.0
"""For opens and reads to come to their ends before a mount is locked."""


class Orders:
    """Reload, lock and unlock.

    Args:
        setup: of the mount.
        engine: that serves it.
        open_view: finds keys for what is unlocked.
        is_mounted: tells whether the mount is there yet.
    """

    def __init__(
        self,
        setup: "Setup",
        engine: "Engine",
        open_view: "Callable[[Keeping, Unlocking | None], View]",
        *,
        is_mounted: Callable[[], bool],
    ) -> None:
        self._setup = setup
        self._engine = engine
        self._open_view = open_view
        self._is_mounted = is_mounted
        self._obeying = threading.Lock()

    @property
    def by_name(self) -> Mapping[str, Command]:
        """For the control socket."""
        return {
            "reload": self._alone(self._reload),
            "lock": self._alone(self._lock),
            "unlock": self._alone(self._unlock),
        }

    def _alone(self, order: Command) -> Command:
        """Return what waits for other orders, for good after one that ends the process.

        Whoever waits then asks the successor again.
        """

        def obey(request: dict[str, Any]) -> Answer:
            self._obeying.acquire()
            then = None
            try:
                answer, then = order(request)
            finally:
                if then is None:
                    self._obeying.release()
            return answer, then

        return obey

    def _reload(self, _request: dict[str, Any]) -> Answer:
        if not self._is_mounted():
            raise MountFailedError("not reloaded: it is not mounted yet")
        reason = self._setup.keeping.reload()
        if reason is not None:
            raise MountFailedError(f"not reloaded: {reason}")
        return {"ends": True}, _end_at_once

    def _lock(self, request: dict[str, Any]) -> Answer:
        keeping = self._setup.keeping
        if keeping.is_locked:
            return {"ends": False}, None
        if keeping.keeper is None:
            raise MountFailedError(
                f"engine={self._setup.options.engine} cannot be locked: "
                "it does not go on in another process"
            )
        try:
            self._take_back(force=request.get("force") is True)
            if not keeping.lock():
                raise MountFailedError("not locked: the keeper does not answer")
        except BaseException:
            self._setup.gate.open()
            raise
        # Nothing may linger in the memory of this process.
        return {"ends": True}, _end_at_once

    def _take_back(self, *, force: bool) -> None:
        """Let nobody have content any more, and have what was there forgotten.

        Raises:
            MountpointError: it is in use, and all is as it was but for the gate.
        """
        mountpoint, gate = self._setup.mountpoint, self._setup.gate
        # Before the gate: who maps may wait there with what /proc would wait for.
        if not force and any(mappers(mountpoint)):
            raise _in_use(mountpoint)
        if not gate.pause(_QUIET_SECONDS):
            raise MountpointError(
                f"{quoted(mountpoint)} is at work on requests that take long",
                hint="try again",
            )
        if not self._engine.take_back(force=force):
            gate.open()
            raise _in_use(mountpoint)

    def _unlock(self, request: dict[str, Any]) -> Answer:
        keeping = self._setup.keeping
        if not keeping.is_locked:
            raise MountpointError(f"{quoted(self._setup.mountpoint)} is not locked")
        unlocking = Unlocking.parse(request)
        keeping.lock()  # nothing is left of an attempt that was interrupted
        try:
            self._open_view(keeping, unlocking)
        except OvfuseError as error:
            # Keys and passphrases that were tried may linger here, too.
            return failure(error), _end_at_once
        if not keeping.unlock():
            raise MountFailedError("not unlocked: the keeper does not answer")
        return {"ends": True}, _end_at_once  # the successor never sees the identity


def _in_use(mountpoint: Path) -> MountpointError:
    return MountpointError(
        f"{quoted(mountpoint)} is in use by {named(list(holders(mountpoint)))}",
        hint="end them, or use --force",
    )


def _end_at_once() -> None:
    """Leave the rest to the successor."""
    os.kill(os.getpid(), signal.SIGKILL)
