"""A mount from its checks to its end, in the foreground or as a daemon.

Used by the mount command. At its end, however it comes, nothing is mounted, the
keys are wiped and the control socket is gone. Threading: called in the main
thread of a process that has no other; the threads of a mount are made here.
"""

import logging
import os
import resource
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ovfuse.errors import MountFailedError, OvfuseError, describe
from ovfuse.events import Event, about
from ovfuse.keeping import Keeping, NothingKept
from ovfuse.mountinfo import list_mounts
from ovfuse.quote import quoted
from ovfuse.secret import harden_process, lock_all_memory, may_swap
from ovfuse.serve.audit import Audit
from ovfuse.serve.background import Launch, QuietLaunch, run_in_background
from ovfuse.serve.control import ControlServer
from ovfuse.serve.engine import Setup
from ovfuse.serve.engines import make_engine
from ovfuse.serve.failures import Failures
from ovfuse.serve.gate import Gate
from ovfuse.serve.locked import LockedView, Unlocking
from ovfuse.serve.logs import Logs
from ovfuse.serve.mountpoint import check_fuse, check_mountpoint
from ovfuse.serve.mounts import find_mount, resolve_mountpoint
from ovfuse.serve.notify import manager_address, notify, watchdog_seconds
from ovfuse.serve.options import MountOptions
from ovfuse.serve.orders import Orders
from ovfuse.serve.readiness import ReadinessWatch, mounted_device
from ovfuse.serve.reporting import Reporter
from ovfuse.serve.status import status_of
from ovfuse.serve.stopping import StopSignals
from ovfuse.serve.survival.keeper import Means, keep_serving
from ovfuse.serve.survival.reload import Restart
from ovfuse.serve.survival.store import Store, find_store, forget_store
from ovfuse.serve.taking_up import (
    DEVICE_RECORD,
    check_premounted,
    clean_up_after_death,
    numbers_before,
    take_up,
)
from ovfuse.serve.unmount import detach_mount

if TYPE_CHECKING:
    from collections.abc import Callable

    from ovfuse.serve.survival.channel import Records
    from ovfuse.serve.survival.unwrappers import Unwrap
    from ovfuse.view.contract import View

__all__ = ["MountPlan", "run_mount"]

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class MountPlan:
    """What is mounted, and how.

    Attributes:
        cipherdir: what is served; only its name is used here.
        mountpoint: an empty directory.
        options: as parsed from `-o`.
        open_view: finds the keys and makes the view; called in the process that
            serves, while it still has the terminal, and again in its successors,
            which it gives what they inherited; and to unlock a mount.
        foreground: stay, instead of leaving a daemon behind.
        asked: what another version of the program, going on, needs to know besides
            both places; it can be written as JSON. None: it cannot go on.
        inherited: what another version left; then both are real paths.
        unwrap: looks for model keys in a process of its own, which is started for it;
            None: `open_view` does so itself.
        stored: what of it the service manager's store has; None: there is none.
        connection: to the kernel, if it was mounted for this; then both are real paths.
        held: descriptors that `unwrap` reads identities from.
    """

    cipherdir: Path
    mountpoint: Path
    options: MountOptions
    open_view: "Callable[[Keeping, Unlocking | None], View]"
    foreground: bool
    asked: Mapping[str, Any] | None = None
    inherited: "Records | None" = None
    unwrap: "Unwrap | None" = None
    stored: Mapping[str, Any] | None = None
    connection: int | None = None
    held: tuple[int, ...] = ()

    @property
    def restart(self) -> Restart | None:
        """How another version of the program goes on."""
        if self.asked is None:
            return None
        places = {"cipherdir": f"{self.cipherdir}", "mountpoint": f"{self.mountpoint}"}
        return Restart(["mount", *places.values()], {**self.asked, **places})


class _ForegroundLaunch(QuietLaunch):
    """Nobody waits but, perhaps, a service manager."""

    def ready(self) -> bool:
        notify(READY=1, STATUS="serving")
        return True

    def report(self, status: str) -> None:
        notify(WATCHDOG=1, STATUS=status)

    def stopping(self) -> None:
        notify(STOPPING=1, STATUS="stopping")


def run_mount(plan: MountPlan) -> None:
    """Mount; return when it answers, or in the foreground when it has ended.

    With an inheritance, go on with what is mounted, and return when that has ended.

    Raises:
        MountpointError: the mountpoint is unsuitable.
        MountFailedError: FUSE refused, or the daemon died.
        OvfuseError: whatever `open_view` raises.
    """
    if plan.inherited is not None:  # whoever looked at the mountpoint would hang
        # The version of the program before has told whoever waited.
        launch = _ForegroundLaunch() if plan.foreground else QuietLaunch()
        store = find_store(plan.stored) if plan.stored is not None else None
        _start(plan, launch, store)
        return
    store = _find_store(plan)
    if store is not None:
        plan = _take_up(plan, store)
        if plan.inherited is not None:
            _start(plan, _ForegroundLaunch(), store)
            return
    if plan.options.premounted:
        check_premounted(plan.mountpoint, plan.connection)
    else:
        check_fuse(allow_other=plan.options.allow_other)
        plan = replace(
            plan,
            mountpoint=check_mountpoint(plan.mountpoint, plan.cipherdir),
            cipherdir=Path(os.path.realpath(plan.cipherdir)),
        )
    if plan.foreground:
        if store is not None and plan.restart is not None:
            store.plan(plan.restart.plan)
        _start(plan, _ForegroundLaunch(), store)
    elif not run_in_background(lambda launch: _start(plan, launch, None)):
        clean_up_after_death(plan.mountpoint)
        raise MountFailedError("the daemon died before it was ready")


def _find_store(plan: MountPlan) -> Store | None:
    """Return where a mount outlives its service, if it can."""
    is_fit = plan.foreground and plan.options.engine == "kernel" and plan.restart
    store = find_store() if is_fit else None
    if store is None:
        forget_store()
    return store


def _take_up(plan: MountPlan, store: Store) -> MountPlan:
    """Go on with what the last keeper left, or with what was mounted for this one."""
    real = replace(
        plan,
        mountpoint=resolve_mountpoint(plan.mountpoint),
        cipherdir=Path(os.path.realpath(plan.cipherdir)),
    )
    facts = real.restart.plan if real.restart else {}
    records = take_up(
        store, facts, real.mountpoint, may_unmount=not plan.options.premounted
    )
    if records is not None:
        return replace(real, inherited=records)
    if plan.options.premounted:
        return replace(real, connection=store.fresh)
    return plan


def _start(plan: MountPlan, launch: Launch, store: Store | None) -> None:
    """Serve, with a keeper where the engine can go on in another process."""
    if plan.options.engine != "kernel":
        _serve(plan, launch, NothingKept())
        return
    _harden_process()  # the keeper has keys, too
    _warm_up()
    has_ended_well = False
    try:
        has_ended_well = keep_serving(
            lambda daemon, keeping: _serve(plan, daemon, keeping),
            launch,
            Means(
                restart=plan.restart,
                unwrap=plan.unwrap,
                store=store,
                patience=watchdog_seconds() / 2 if plan.foreground else 0,
                held=plan.held,
            ),
            plan.inherited,
        )
    finally:
        if not has_ended_well and not plan.options.premounted:
            clean_up_after_death(plan.mountpoint)


def _serve(plan: MountPlan, launch: Launch, keeping: Keeping) -> None:
    """Do everything from the first key to the last wiped byte."""
    logs = _open_logs(plan, keeping)
    try:
        _prepare_process()
        view = LockedView() if keeping.is_locked else plan.open_view(keeping, None)
        try:
            launch.detach()
            device, restarts = numbers_before(
                keeping, plan.mountpoint, premounted=plan.options.premounted
            )
            audit = Audit(plan.mountpoint if plan.options.audit else None)
            setup = Setup(
                view=view,
                cipherdir=plan.cipherdir,
                mountpoint=plan.mountpoint,
                options=plan.options,
                failures=Failures(audit),
                audit=audit,
                keeping=keeping,
                gate=Gate(is_open=not keeping.is_locked),
                device=device,
                restarts=restarts,
                connection=plan.connection,
            )
            _Service(plan, launch, logs, setup).run()
        finally:
            view.close()
    finally:
        logs.close()


def _open_logs(plan: MountPlan, keeping: Keeping) -> Logs:
    """Return the logs: of a successor, whom no terminal hears, those of its mount."""
    try:
        logs = Logs(plan.options.log, plan.mountpoint)
    except OvfuseError:
        if not keeping.is_successor:
            raise
        logs = Logs(None, plan.mountpoint)
    if keeping.is_successor:
        logs.settle(background=not plan.foreground)
    return logs


class _Service:
    """A mount while it is served.

    Args:
        plan: of it.
        launch: told how the start goes.
        logs: settled when it is ready.
        setup: for the engine.
    """

    def __init__(
        self, plan: MountPlan, launch: Launch, logs: Logs, setup: Setup
    ) -> None:
        self._plan = plan
        self._launch = launch
        self._logs = logs
        self._setup = setup
        self._engine = make_engine(setup)
        self._signals = StopSignals()
        goes_on = setup.keeping.is_successor and setup.device is not None
        self._devices = [setup.device] if goes_on else []
        self._reporter = Reporter(setup, launch)

    def run(self) -> None:
        """Serve to the end; leave no mount of ours, whatever happens.

        Raises:
            OvfuseError: it could not be mounted, or the engine broke off.
        """
        watch = ReadinessWatch(self._device_that_answers(), self._note_ready)
        with self._signals, self._control(), watch, self._reporter:
            self._run()
        self._launch.stopping()
        place = quoted(self._plan.mountpoint)
        _log.info("unmounted %s", place, extra=about(Event.UNMOUNTED))

    def _control(self) -> AbstractContextManager[object]:
        if self._setup.keeping.is_successor and self._is_gone():
            return nullcontext()  # another mount may be there by now
        return ControlServer(
            self._plan.mountpoint,
            lambda: status_of(self._setup, ready=bool(self._devices)),
            Orders(
                self._setup,
                self._engine,
                self._plan.open_view,
                is_mounted=lambda: bool(self._devices),
            ).by_name,
            succeeds=bool(self._devices),
        )

    def _device_that_answers(self) -> "Callable[[], int | None]":
        device, goes_on = self._setup.device, self._setup.goes_on
        if device is None:
            return mounted_device(self._plan.mountpoint)
        return lambda: device if goes_on.is_set() else None

    def _note_ready(self, device: int) -> None:
        self._devices.append(device)
        numbers = b"%d %d" % (device, self._setup.restarts)
        self._setup.keeping.keep(DEVICE_RECORD, numbers)
        self._launch.settle()
        place, keeping = quoted(self._plan.mountpoint), self._setup.keeping
        if keeping.is_successor:
            level = logging.ERROR if keeping.predecessor_crashed else logging.WARNING
            what, extra = "another daemon serves on %s: %s", about(Event.SUCCEEDED)
            _log.log(level, what, place, keeping.reason, extra=extra)
        else:
            self._logs.settle(background=not self._plan.foreground)
            _log.info("serving on %s", place, extra=about(Event.SERVING))
        if not self._launch.ready():
            self._signals.request()
        elif self._plan.foreground and manager_address():
            self._reporter.start()

    def _is_gone(self) -> bool:
        mounted = {mount.device for mount in list_mounts()}
        return bool(self._devices) and mounted.isdisjoint(self._devices)

    def _is_out_of_reach(self) -> bool:
        """Whether nobody here can unmount: it is done, or left to others."""
        return self._setup.options.premounted or self._is_gone()

    def _run(self) -> None:
        try:
            self._signals.run(
                self._engine, self._launch.stopping, self._is_out_of_reach
            )
        except Exception as error:
            if not self._plan.foreground and self._devices:  # else the user is told
                _log.error("the engine broke off: %s", describe(error))
            if isinstance(error, OvfuseError):
                raise
            what = f"the engine broke off: {describe(error)}"
            raise MountFailedError(what) from error
        finally:
            left = find_mount(self._plan.mountpoint)
            is_ours = left is not None and left.device in self._devices
            if is_ours and self._has_served and not self._setup.options.premounted:
                detach_mount(self._plan.mountpoint)

    @property
    def _has_served(self) -> bool:
        """Whether the mount was up: a successor that failed before is not the last."""
        return not self._setup.keeping.is_successor or self._setup.goes_on.is_set()


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
    """Import what a daemon needs, so that its successors need not.

    Nor does any child of the keeper's later, when another version may be installed.
    """
    from ovfuse.serve import kernel, unwrapping  # noqa: F401, PLC0415
    from ovfuse.view import warm_up  # noqa: PLC0415

    warm_up()
