"""A mount from its checks to its end, in the foreground or as a daemon.

Used by the mount command. At its end, however it comes, nothing is mounted, the
keys are wiped and the control socket is gone. Threading: called in the main
thread of a process that has no other; the threads of a mount are made here.
"""

import logging
import os
import resource
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from ovfuse.errors import MountFailedError, OvfuseError, describe
from ovfuse.keeping import Keeping, NothingKept
from ovfuse.mountinfo import FILESYSTEM_TYPE, list_mounts
from ovfuse.quote import quoted
from ovfuse.secret import harden_process, lock_all_memory, may_swap
from ovfuse.serve.background import Launch, run_in_background
from ovfuse.serve.control import ControlServer, remove_dead_socket
from ovfuse.serve.engine import Engine, Setup
from ovfuse.serve.engines import make_engine
from ovfuse.serve.failures import Failures
from ovfuse.serve.logs import Logs
from ovfuse.serve.mountpoint import check_fuse, check_mountpoint
from ovfuse.serve.mounts import find_mount, is_stale
from ovfuse.serve.notify import notify
from ovfuse.serve.options import MountOptions
from ovfuse.serve.readiness import ReadinessWatch, mounted_device
from ovfuse.serve.status import status_of
from ovfuse.serve.stopping import StopSignals
from ovfuse.serve.survival.keeper import keep_serving
from ovfuse.serve.unmount import detach_mount

if TYPE_CHECKING:
    from collections.abc import Callable

    from ovfuse.view.contract import View

__all__ = ["run_mount"]

_log = logging.getLogger(__name__)

_DEVICE_RECORD: Final = "device"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    cipherdir: Path
    mountpoint: Path
    options: MountOptions
    open_view: "Callable[[Keeping], View]"
    background: bool


class _ForegroundLaunch:
    """Nobody waits but, perhaps, a service manager."""

    def detach(self) -> None:
        notify(STATUS="mounting")

    def settle(self) -> None:
        pass

    def ready(self) -> bool:
        notify(READY=1, STATUS="serving")
        return True

    def stopping(self) -> None:
        notify(STOPPING=1, STATUS="stopping")


def run_mount(
    *,
    cipherdir: Path,
    mountpoint: Path,
    options: MountOptions,
    open_view: "Callable[[Keeping], View]",
    foreground: bool,
) -> None:
    """Mount; return when it answers, or in the foreground when it has ended.

    Args:
        cipherdir: what is served; only its name is used here.
        mountpoint: an empty directory.
        options: as parsed from `-o`.
        open_view: finds the keys and makes the view; called in the process that
            serves, while it still has the terminal, and again in its successors,
            which it gives what they inherited.
        foreground: stay, instead of leaving a daemon behind.

    Raises:
        MountpointError: the mountpoint is unsuitable.
        MountFailedError: FUSE refused, or the daemon died.
        OvfuseError: whatever `open_view` raises.
    """
    check_fuse(allow_other=options.allow_other)
    plan = _Plan(
        cipherdir=Path(os.path.realpath(cipherdir)),
        mountpoint=check_mountpoint(mountpoint, cipherdir),
        options=options,
        open_view=open_view,
        background=not foreground,
    )
    if foreground:
        _start(plan, _ForegroundLaunch())
    elif not run_in_background(lambda launch: _start(plan, launch)):
        _clean_up_after_death(plan.mountpoint)
        raise MountFailedError("the daemon died before it was ready")


def _start(plan: _Plan, launch: Launch) -> None:
    """Serve, with a keeper where the engine can go on in another process."""
    if plan.options.engine != "kernel":
        _serve(plan, launch, NothingKept())
        return
    _harden_process()  # the keeper has keys, too
    _warm_up()
    try:
        keep_serving(lambda daemon, keeping: _serve(plan, daemon, keeping), launch)
    except MountFailedError:
        _clean_up_after_death(plan.mountpoint)
        raise


def _serve(plan: _Plan, launch: Launch, keeping: Keeping) -> None:
    """Do everything from the first key to the last wiped byte."""
    logs = Logs(plan.options.log)
    try:
        _prepare_process()
        view = plan.open_view(keeping)
        try:
            launch.detach()
            setup = Setup(
                view=view,
                cipherdir=plan.cipherdir,
                mountpoint=plan.mountpoint,
                options=plan.options,
                failures=Failures(),
                keeping=keeping,
            )
            _Service(plan, launch, logs, setup).run()
        finally:
            view.close()
    finally:
        logs.close()


class _Service:
    """A mount while it is served.

    Args:
        plan: of it.
        launch: told how the start goes.
        logs: settled when it is ready.
        setup: for the engine.
    """

    def __init__(self, plan: _Plan, launch: Launch, logs: Logs, setup: Setup) -> None:
        self._plan = plan
        self._launch = launch
        self._logs = logs
        self._setup = setup
        self._signals = StopSignals()
        self._devices = _inherited_devices(setup.keeping)

    def run(self) -> None:
        """Serve to the end; leave no mount of ours, whatever happens.

        Raises:
            OvfuseError: it could not be mounted, or the engine broke off.
        """
        engine = make_engine(self._setup)
        watch = ReadinessWatch(self._device_that_answers(), self._note_ready)
        with self._signals, self._control(), watch:
            self._run(engine)
        self._launch.stopping()
        _log.info("unmounted %s", quoted(self._plan.mountpoint))

    def _control(self) -> AbstractContextManager[object]:
        if self._setup.keeping.is_successor and self._is_gone():
            return nullcontext()  # another mount may be there by now
        return ControlServer(
            self._plan.mountpoint,
            lambda: status_of(self._setup, ready=bool(self._devices)),
        )

    def _device_that_answers(self) -> "Callable[[], int | None]":
        if not self._setup.keeping.is_successor:
            return mounted_device(self._plan.mountpoint)
        device, goes_on = self._devices[0], self._setup.goes_on
        return lambda: device if goes_on.is_set() else None

    def _note_ready(self, device: int) -> None:
        self._devices.append(device)
        self._setup.keeping.keep(_DEVICE_RECORD, b"%d" % device)
        self._launch.settle()
        self._logs.settle(background=self._plan.background)
        goes_on = "going on" if self._setup.keeping.is_successor else "serving"
        _log.info("%s on %s", goes_on, quoted(self._plan.mountpoint))
        if not self._launch.ready():
            self._signals.request()

    def _is_gone(self) -> bool:
        mounted = {mount.device for mount in list_mounts()}
        return bool(self._devices) and mounted.isdisjoint(self._devices)

    def _run(self, engine: Engine) -> None:
        try:
            self._signals.run(engine, self._launch.stopping, self._is_gone)
        except Exception as error:
            if self._plan.background and self._devices:  # else the user is told
                _log.error("the engine broke off: %s", describe(error))
            if isinstance(error, OvfuseError):
                raise
            what = f"the engine broke off: {describe(error)}"
            raise MountFailedError(what) from error
        finally:
            left = find_mount(self._plan.mountpoint)
            if left is not None and left.device in self._devices:
                detach_mount(self._plan.mountpoint)


def _inherited_devices(keeping: Keeping) -> list[int]:
    return [int(bytes(record.data)) for _, record in keeping.take(_DEVICE_RECORD)]


def _clean_up_after_death(mountpoint: Path) -> None:
    """Unmount what a daemon left that was killed between mounting and `ready`."""
    left = find_mount(mountpoint)
    if left and left.filesystem_type == FILESYSTEM_TYPE and is_stale(mountpoint):
        with suppress(OvfuseError):
            detach_mount(mountpoint)
    remove_dead_socket(mountpoint)


def _prepare_process() -> None:
    if not _harden_process() and may_swap():
        _log.warning(
            "memory is not locked, so keys could reach the swap: "
            "raise the memlock limit (ulimit -l unlimited)"
        )


def _harden_process() -> bool:
    """Do what protects keys in memory; tell whether that is locked."""
    harden_process()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return lock_all_memory()


def _warm_up() -> None:
    """Import what a daemon needs, so that its successors need not."""
    from ovfuse.serve import kernel  # noqa: F401, PLC0415
    from ovfuse.view import warm_up  # noqa: PLC0415

    warm_up()
