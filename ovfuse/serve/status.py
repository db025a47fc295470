"""The mounts of this machine: the kernel's list joined with what daemons say.

Used by the status command and by unmount; the daemon's half, `status_of`, by the
lifecycle. Stateless; any thread.
"""

import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final

from ovfuse.mountinfo import Mount
from ovfuse.serve import control
from ovfuse.serve.mounts import is_stale, ovfuse_mounts
from ovfuse.view.contract import ModelStatus

if TYPE_CHECKING:
    from ovfuse.serve.engine import Setup

__all__ = ["MountStatus", "ask_daemon", "list_status", "status_of"]

SERVING: Final = "serving"
LOCKED: Final = "locked"
STALE: Final = "stale"
UNKNOWN: Final = "unknown"
STATES: Final = (SERVING, LOCKED, STALE, UNKNOWN)
_ASKED_AT_ONCE: Final = 8
"""Daemons; one that does not answer keeps nobody waiting for the others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MountStatus:
    """One mount. What only its daemon knows is empty or None where it is silent.

    Attributes:
        mountpoint: where it is.
        cipherdir: what is shown there.
        pid: the daemon.
        keeper: the process that replaces it when it is killed, if any does.
        engine: how it serves.
        state: `serving`; `locked`: without keys, until `unlock`; `stale`: the daemon
            is gone; `unknown`: it does not answer, as another account's does not, or
            has only just started.
        models: the sealed models in it.
        failed_reads: opens and reads that were answered with an error.
        resident_files: files that are in memory, from which the kernel serves them;
            also None where it cannot.
        resident_bytes: what these take.
        opens: files that were opened, since the daemon started.
        denials: requests that were denied for want of a key or of trust, or by terms,
            likewise.
        restarts: how many daemons served the mount before this one.
    """

    mountpoint: str
    cipherdir: str
    pid: int | None = None
    keeper: int | None = None
    engine: str | None = None
    state: str
    models: list[ModelStatus]
    failed_reads: int | None = None
    resident_files: int | None = None
    resident_bytes: int | None = None
    opens: int | None = None
    denials: int | None = None
    restarts: int | None = None

    def as_json(self) -> dict[str, Any]:
        """Return what `status --json` prints for it."""
        return asdict(self)


def status_of(setup: "Setup", *, ready: bool) -> dict[str, Any]:
    """Return what the daemon of a mount answers to `status`."""
    resident_files, resident_bytes = setup.usage.files_and_bytes or (None, None)
    return {
        "mountpoint": os.fspath(setup.mountpoint),
        "cipherdir": os.fspath(setup.cipherdir),
        "pid": os.getpid(),
        "keeper": setup.keeping.keeper,
        "ready": ready,
        "locked": setup.keeping.is_locked,
        "engine": setup.options.engine,
        "models": [asdict(model) for model in setup.view.status()],
        "failed_reads": setup.failures.failed_reads,
        "resident_files": resident_files,
        "resident_bytes": resident_bytes,
        "opens": setup.audit.opens,
        "denials": setup.audit.denials,
        "restarts": setup.restarts,
    }


def list_status() -> list[MountStatus]:
    """Return every mount of ovfuse that this process can see, and its state."""
    with ThreadPoolExecutor(_ASKED_AT_ONCE) as pool:
        return list(pool.map(mount_status, ovfuse_mounts()))


def mount_status(mount: Mount) -> MountStatus:
    """Return the state of one mount."""
    answer = ask_daemon(mount)
    if answer is None:
        gone = is_stale(mount.mountpoint)
        return MountStatus(
            mountpoint=os.fspath(mount.mountpoint),
            cipherdir=mount.source,
            state=STALE if gone else UNKNOWN,
            models=[],
        )
    return MountStatus(
        mountpoint=os.fspath(mount.mountpoint),
        cipherdir=mount.source,
        pid=answer["pid"],
        keeper=_number(answer.get("keeper")),
        engine=str(answer.get("engine")),
        state=_state(answer),
        models=list(_models(answer.get("models"))),
        failed_reads=_number(answer.get("failed_reads")),
        resident_files=_number(answer.get("resident_files")),
        resident_bytes=_number(answer.get("resident_bytes")),
        opens=_number(answer.get("opens")),
        denials=_number(answer.get("denials")),
        restarts=_number(answer.get("restarts")),
    )


def ask_daemon(
    mount: Mount, command: str = "status", timeout: float = 2.0, **fields: object
) -> dict[str, Any] | None:
    """Ask the daemon of a mount; see `control.ask`."""
    places = control.socket_directories(mount.user_id or 0)
    for directory, owner in dict.fromkeys(places):
        path = control.socket_path(mount.mountpoint, directory)
        answer = control.ask(path, owner, command, timeout=timeout, **fields)
        if answer is not None:
            return answer
    return None


def _models(raw: object) -> Iterable[ModelStatus]:
    """Yield the models of an answer, which may be of another version's daemon."""
    for model in raw if isinstance(raw, list) else ():
        if isinstance(model, dict):
            yield ModelStatus(
                name=str(model.get("name", "")),
                path=str(model.get("path", "")),
                model_id=str(model.get("model_id", "")),
                version=_number(model.get("version")) or 0,
                state=str(model.get("state", "")),
                reason=str(model.get("reason", "")),
                sealed_at=_number(model.get("sealed_at")) or 0,
                not_after=_number(model.get("not_after")),
                unlocks=_number(model.get("unlocks")) or 0,
            )


def _state(answer: dict[str, Any]) -> str:
    if not answer.get("ready"):
        return UNKNOWN
    return LOCKED if answer.get("locked") is True else SERVING


def _number(raw: object) -> int | None:
    return raw if isinstance(raw, int) else None
