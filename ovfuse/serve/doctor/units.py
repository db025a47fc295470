"""The units that mount: whether each is as it should be, and what it needs is there.

Used by the doctor. Says nothing where systemd does not run or nothing is configured.
Reads the system and changes nothing. Any thread.
"""

import array
import fcntl
import os
import re
import stat
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

from ovfuse.mountinfo import FILESYSTEM_TYPE, list_mounts
from ovfuse.quote import quoted
from ovfuse.serve.configured import Configured, configured_mounts
from ovfuse.serve.doctor import systemd
from ovfuse.serve.doctor.finding import OK, PROBLEM, WARNING, Finding

__all__ = ["units"]

_PROPERTIES: Final = (
    *("LoadState", "UnitFileState", "ActiveState", "SubState", "Result"),
    "NRestarts",
)
_TPM: Final = Path("/dev/tpmrm0")
_HOST_KEY: Final = Path("/var/lib/systemd/credential.secret")
_MOUNTS_OF_INIT: Final = Path("/proc/1/mountinfo")
_FS_IOC_GETFLAGS: Final = 0x80086601
_IMMUTABLE: Final = 0x10
_NAME: Final = re.compile(r"[A-Za-z0-9:_.\\-]{1,200}")

_Shown = Mapping[str, str]


def units() -> Iterator[Finding]:
    """Look at every instance of ovfuse@.service, and what it is to mount."""
    if not systemd.runs_here():
        return
    configured = {found.name: found for found in configured_mounts()}
    names = sorted({*configured, *systemd.instances()})
    for name in names:
        yield from _instance(name, configured.get(name))
    if names:
        has_tpm = _TPM.exists()
        yield Finding(
            topic="TPM",
            state=OK,
            detail=f"{_TPM} is there" if has_tpm else "none",
            advice="" if has_tpm else "credentials can be bound to this disk only",
        )


def _instance(name: str, configured: Configured | None) -> Iterator[Finding]:
    topic = f"ovfuse@{name}"
    if not _NAME.fullmatch(name):  # of a file that no unit can be for
        yield Finding(topic=topic, state=WARNING, detail="no name for a unit")
        return
    shown = systemd.show(f"ovfuse@{name}.service", _PROPERTIES)
    yield _state(topic, name, shown)
    if configured is None:
        yield Finding(
            topic=topic,
            state=PROBLEM,
            detail=f"/etc/ovfuse/{name}.conf is missing or cannot be read",
            advice="it says CIPHERDIR=, MOUNTPOINT= and OPTIONS=",
        )
        return
    yield from _credentials(topic, configured)
    yield from _directories(topic, configured, is_active=_is_active(shown))


def _state(topic: str, name: str, shown: _Shown) -> Finding:
    if shown["LoadState"] != "loaded":
        return Finding(
            topic=topic,
            state=PROBLEM,
            detail=f"the unit is {shown['LoadState']}",
            advice="install systemd/ovfuse@.service, then systemctl daemon-reload",
        )
    detail = (
        f"{shown['ActiveState']} ({shown['SubState']}), {shown['UnitFileState']}, "
        f"{shown['NRestarts']} restarts, result {shown['Result']}"
    )
    if shown["ActiveState"] == "failed" or shown["Result"] != "success":
        said = systemd.last_error(f"ovfuse@{name}.service")
        return Finding(
            topic=topic,
            state=PROBLEM,
            detail=detail,
            advice=f"it said: {quoted(said)}"
            if said
            else f"journalctl -u ovfuse@{name}",
        )
    if not _is_active(shown) or shown["UnitFileState"] != "enabled":
        advice = f"systemctl enable --now ovfuse@{name}"
        return Finding(topic=topic, state=WARNING, detail=detail, advice=advice)
    return Finding(topic=topic, state=OK, detail=detail)


def _is_active(shown: _Shown) -> bool:
    return shown["ActiveState"] == "active"


def _credentials(topic: str, configured: Configured) -> Iterator[Finding]:
    """Look at the files that systemd makes credentials of, wherever they are."""
    encrypted = systemd.settings(configured.unit, "LoadCredentialEncrypted")
    for text in encrypted:
        yield from _credential(topic, text, configured.name, forbidden=0o022)
    for text in systemd.settings(configured.unit, "LoadCredential"):
        yield from _credential(topic, text, configured.name, forbidden=0o077)
    if encrypted and not _TPM.exists() and _same_disk(_HOST_KEY, configured.cipherdir):
        yield Finding(
            topic=topic,
            state=WARNING,
            detail="the key of the credential is on the disk of the models",
            advice="who takes the disk can read them: bind it to a TPM, "
            "or keep /var/lib/systemd on another disk",
        )


def _credential(
    topic: str, text: str, name: str, *, forbidden: int
) -> Iterator[Finding]:
    """Look at one file.

    Args:
        topic: of the finding.
        text: ID:PATH, as a unit has it.
        name: of the instance.
        forbidden: bits that its mode must not have; who reads one that is encrypted
            learns nothing.
    """
    path = Path(re.sub("%[iI]", lambda _: name, text.partition(":")[2]))
    if not path.is_absolute() or "%" in f"{path}":
        return  # of systemd's own, or of a directory that it knows
    try:
        status = path.stat()
    except OSError as error:
        yield Finding(
            topic=topic,
            state=PROBLEM,
            detail=f"the credential {quoted(path)}: {error.strerror}",
            advice="systemd-creds encrypt makes it",
        )
        return
    is_file, mode = stat.S_ISREG(status.st_mode), status.st_mode & forbidden
    if not is_file or status.st_uid != 0 or mode:
        yield Finding(
            topic=topic,
            state=PROBLEM,
            detail=f"the credential {quoted(path)} is not of root alone",
            advice=f"chown root {quoted(path)} && chmod 600 {quoted(path)}",
        )
        return
    yield Finding(topic=topic, state=OK, detail=f"credential {quoted(path)}")


def _directories(
    topic: str, configured: Configured, *, is_active: bool
) -> Iterator[Finding]:
    cipherdir = Path(configured.cipherdir)
    if not configured.cipherdir or not cipherdir.is_dir():
        yield Finding(
            topic=topic,
            state=PROBLEM,
            detail=f"CIPHERDIR {quoted(configured.cipherdir)} is no directory",
            advice="copy the sealed models there, or mount what they are on",
        )
    mountpoint = Path(os.path.realpath(configured.mountpoint or "/nonexistent"))
    if is_active:
        yield _visible(topic, mountpoint)
    else:
        yield from _waiting(topic, mountpoint)


def _visible(topic: str, mountpoint: Path) -> Finding:
    """Look whether all others see the mount, or only the service itself does."""
    try:
        mounts = list_mounts(_MOUNTS_OF_INIT)
    except OSError as error:
        detail = f"what the system has mounted: {error.strerror}"
        return Finding(topic=topic, state=WARNING, detail=detail)
    at = [m.filesystem_type for m in mounts if m.mountpoint == mountpoint]
    if at[-1:] == [FILESYSTEM_TYPE]:
        return Finding(topic=topic, state=OK, detail=f"on {quoted(mountpoint)}")
    return Finding(
        topic=topic,
        state=PROBLEM,
        detail=f"nobody else sees a mount on {quoted(mountpoint)}",
        advice="remove what gives the unit a mount namespace of its own: "
        "see the end of ovfuse@.service",
    )


def _waiting(topic: str, mountpoint: Path) -> Iterator[Finding]:
    """Look at the directory while nothing is mounted there."""
    try:
        is_empty = not any(mountpoint.iterdir())
    except OSError as error:
        yield Finding(
            topic=topic,
            state=PROBLEM,
            detail=f"MOUNTPOINT {quoted(mountpoint)}: {error.strerror}",
            advice=f"mkdir -p {quoted(mountpoint)}",
        )
        return
    if not is_empty:
        yield Finding(
            topic=topic,
            state=PROBLEM,
            detail=f"MOUNTPOINT {quoted(mountpoint)} is not empty",
            advice="move away what is in it: apps take it for the models",
        )
    elif not _is_immutable(mountpoint):
        yield Finding(
            topic=topic,
            state=OK,
            detail=f"{quoted(mountpoint)} is empty",
            advice=f"chattr +i {quoted(mountpoint)} keeps apps from writing there "
            "while nothing is mounted",
        )


def _is_immutable(directory: Path) -> bool:
    flags = array.array("l", [0])
    with suppress(OSError):
        fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.ioctl(fd, _FS_IOC_GETFLAGS, flags)
        finally:
            os.close(fd)
    return bool(flags[0] & _IMMUTABLE)


def _same_disk(file: Path, cipherdir: str) -> bool:
    with suppress(OSError):
        # By its directory: on an overlay, a file has a number of its own.
        is_there = file.exists()
        return is_there and file.parent.stat().st_dev == Path(cipherdir).stat().st_dev
    return False
