"""A mount from its checks to its end, in the foreground or as a daemon.

Used by the mount command. At its end, however it comes, nothing is mounted, the
keys are wiped and the control socket is gone. Threading: called in the main
thread of a process that has no other; the threads of a mount are made here.
"""

import logging
import os
import resource
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ovfuse.errors import MountFailedError, OvfuseError, describe
from ovfuse.mountinfo import FILESYSTEM_TYPE, list_mounts
from ovfuse.quote import quoted
from ovfuse.secret import harden_process, lock_all_memory, may_swap
from ovfuse.serve.background import Launch, run_in_background
from ovfuse.serve.control import ControlServer, remove_dead_socket
from ovfuse.serve.engine import Setup
from ovfuse.serve.engines import make_engine
from ovfuse.serve.failures import Failures
from ovfuse.serve.logs import Logs
from ovfuse.serve.mountpoint import check_fuse, check_mountpoint
from ovfuse.serve.mounts import find_mount, is_stale
from ovfuse.serve.notify import notify
from ovfuse.serve.options import MountOptions
from ovfuse.serve.readiness import ReadinessWatch
from ovfuse.serve.status import status_of
from ovfuse.serve.stopping import StopSignals
from ovfuse.serve.unmount import detach_mount

if TYPE_CHECKING:
    from collections.abc import Callable

    from ovfuse.view.contract import View

__all__ = ["run_mount"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    cipherdir: Path
    mountpoint: Path
    options: MountOptions
    open_view: "Callable[[], View]"
    background: bool


class _ForegroundLaunch:
    """Nobody waits but, perhaps, a service manager."""

    def detach(self) -> None:
        notify(STATUS="mounting")

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
    open_view: "Callable[[], View]",
    foreground: bool,
) -> None:
    """Mount; return when it answers, or in the foreground when it has ended.

    Args:
        cipherdir: what is served; only its name is used here.
        mountpoint: an empty directory.
        options: as parsed from `-o`.
        open_view: finds the keys and makes the view; called once, in the
            process that serves, while it still has the terminal.
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
        _serve(plan, _ForegroundLaunch())
    elif not run_in_background(lambda launch: _serve(plan, launch)):
        _clean_up_after_death(plan.mountpoint)
        raise MountFailedError("the daemon died before it was ready")


def _serve(plan: _Plan, launch: Launch) -> None:
    """Do everything from the first key to the last wiped byte."""
    logs = Logs(plan.options.log)
    try:
        _prepare_process()
        view = plan.open_view()
        try:
            launch.detach()
            _run_engine(plan, view, launch, logs)
        finally:
            view.close()
    finally:
        logs.close()


def _run_engine(plan: _Plan, view: "View", launch: Launch, logs: Logs) -> None:
    setup = Setup(
        view=view,
        cipherdir=plan.cipherdir,
        mountpoint=plan.mountpoint,
        options=plan.options,
        failures=Failures(),
    )
    engine = make_engine(setup)
    devices: list[int] = []

    def on_ready(device: int) -> None:
        devices.append(device)
        logs.settle(background=plan.background)
        _log.info("serving on %s", quoted(plan.mountpoint))
        if not launch.ready():
            signals.request()

    def gone() -> bool:
        mounted = {mount.device for mount in list_mounts()}
        return bool(devices) and mounted.isdisjoint(devices)

    with (
        StopSignals() as signals,
        ControlServer(plan.mountpoint, lambda: status_of(setup, ready=bool(devices))),
        ReadinessWatch(plan.mountpoint, on_ready),
    ):
        _run_to_the_end(
            lambda: signals.run(engine, launch.stopping, gone), plan, devices
        )
    launch.stopping()
    _log.info("unmounted %s", quoted(plan.mountpoint))


def _run_to_the_end(run: "Callable[[], None]", plan: _Plan, devices: list[int]) -> None:
    """Run the engine; leave no mount of ours, whatever happens to it."""
    try:
        run()
    except Exception as error:
        if plan.background and devices:  # else it is printed for the user
            _log.error("the engine broke off: %s", describe(error))
        if isinstance(error, OvfuseError):
            raise
        raise MountFailedError(f"the engine broke off: {describe(error)}") from error
    finally:
        left = find_mount(plan.mountpoint)
        if left is not None and left.device in devices:
            detach_mount(plan.mountpoint)


def _clean_up_after_death(mountpoint: Path) -> None:
    """Unmount what a daemon left that was killed between mounting and `ready`."""
    left = find_mount(mountpoint)
    if left and left.filesystem_type == FILESYSTEM_TYPE and is_stale(mountpoint):
        with suppress(OvfuseError):
            detach_mount(mountpoint)
    remove_dead_socket(mountpoint)


def _prepare_process() -> None:
    harden_process()
    if not lock_all_memory() and may_swap():
        _log.warning(
            "memory is not locked, so keys could reach the swap: "
            "raise the memlock limit (ulimit -l unlimited)"
        )
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
