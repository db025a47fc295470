"""No going back: which version of a model was seen in a place before.

The state is outside the cipherdir, in `$XDG_STATE_HOME/ovfuse/seen` (for root
/var/lib/ovfuse/seen), one small file per place, replaced whole. What it can stop, and
what not, is in docs/threat-model.md. Processes are kept apart by an flock.
"""

import fcntl
import hashlib
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

from msgspec import Meta

from ovfuse.errors import DamagedError, RollbackError
from ovfuse.keys.places import state_directory
from ovfuse.quote import quoted
from ovfuse.sealed.canonical import Record, decode, encode
from ovfuse.sealed.envelope import Envelope

__all__ = ["History", "Place"]

_log = logging.getLogger(__name__)

_MAX_SIZE: Final = 64 * 1024
_LOCK_NAME: Final = "lock"
_NEW_NAME: Final = "new"
_READING: Final = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
_WRITING: Final = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW


class _Seen(Record, frozen=True):
    cipherdir: str
    model_id: str
    path: str
    payload_sha256: str
    version: Annotated[int, Meta(ge=1)]


@dataclass(frozen=True, slots=True)
class Place:
    """Where a model is: real path of the cipherdir, and path in the tree."""

    cipherdir: Path
    path: str

    @property
    def file_name(self) -> str:
        """The name of its state file: a hash, since a path can be anything."""
        text = os.fsencode(self.cipherdir) + b"\0" + os.fsencode(self.path)
        return hashlib.sha256(text).hexdigest()[:32] + ".json"


class History:
    """What was seen before. Any thread; each warning comes once.

    Args:
        allow_rollback: accept what is older, and take it as what was seen.
    """

    def __init__(self, *, allow_rollback: bool = False) -> None:
        base = state_directory()
        self._directory = None if base is None else base / "seen"
        self._allow_rollback = allow_rollback
        self._warned: set[str] = set()

    def check(self, place: Place, envelope: Envelope) -> None:
        """Refuse to go back.

        Raises:
            RollbackError: an older version, the same one with another content, or
                another model than the one seen in this place.
        """
        if self._allow_rollback or self._directory is None:
            return
        seen = self._read(self._directory, place)
        if seen is not None:
            _compare(seen, envelope)

    def record(self, place: Place, envelope: Envelope) -> None:
        """Remember the sealing, which was unlocked, as the newest of its place.

        Raises:
            RollbackError: a newer one was recorded meanwhile.
        """
        with self._state() as directory:
            if directory is None:
                return
            seen = self._read(directory, place)
            if seen is None:
                _log.info(
                    "first sight of %s, version %d: nothing to compare it with",
                    quoted(place.path or place.cipherdir),
                    envelope.facts.version,
                )
            elif not self._allow_rollback:
                _compare(seen, envelope)
            _write(directory, place, envelope, seen)

    def record_own(self, cipherdir: Path, envelope: Envelope) -> None:
        """Remember what this account sealed just now; nothing is compared.

        Args:
            cipherdir: its real path. Trees around it in which it was seen get to
                know it, too.
            envelope: of the new sealing.
        """
        around = [Place(p, str(cipherdir.relative_to(p))) for p in cipherdir.parents]
        with self._state() as directory:
            if directory is None:
                return
            for place in (Place(cipherdir, ""), *around):
                seen = self._read(directory, place)
                if seen is not None or not place.path:
                    _write(directory, place, envelope, seen)

    def _read(self, directory: Path, place: Place) -> _Seen | None:
        path = directory / place.file_name
        try:
            fd = os.open(path, _READING)
        except FileNotFoundError:
            return None
        except OSError as error:
            self._warn_of(directory, error)
            return None
        try:
            with os.fdopen(fd, "rb", closefd=False) as file:
                return decode(file.read(_MAX_SIZE), _Seen, "state file")
        except (DamagedError, OSError):
            self._warn(f"{quoted(path)} is damaged: what was seen before is lost")
            return None
        finally:
            os.close(fd)

    @contextmanager
    def _state(self) -> Iterator[Path | None]:
        """Lock the directory; None where there is none to be had, which is said."""
        if self._directory is None:
            self._warn("there is no home directory to remember versions in")
            yield None
            return
        try:
            lock_fd = _lock(self._directory)
        except OSError as error:
            self._warn_of(self._directory, error)
            yield None
            return
        try:
            yield self._directory
        except OSError as error:
            self._warn_of(self._directory, error)
        finally:
            os.close(lock_fd)

    def _warn_of(self, directory: Path, error: OSError) -> None:
        self._warn(
            f"going back to older versions is not noticed: {quoted(directory)}: "
            f"{error.strerror}"
        )

    def _warn(self, text: str) -> None:
        if text not in self._warned:
            self._warned.add(text)
            _log.warning("%s", text)


def _lock(directory: Path) -> int:
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    fd = os.open(directory / _LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _write(
    directory: Path, place: Place, envelope: Envelope, seen: _Seen | None
) -> None:
    record = _Seen(
        cipherdir=quoted(place.cipherdir),
        model_id=envelope.facts.model_id,
        path=place.path,
        payload_sha256=envelope.payload_sha256,
        version=envelope.facts.version,
    )
    if record != seen:
        _replace(directory, place.file_name, encode(record))


def _compare(seen: _Seen, envelope: Envelope) -> None:
    facts = envelope.facts
    hint = (
        "if that is right, once: ovfuse verify --allow-rollback, "
        "or mount -o allow_rollback"
    )
    if facts.model_id != seen.model_id:
        raise RollbackError("it is another model than was seen here before", hint=hint)
    if facts.version < seen.version:
        raise RollbackError(
            f"it is version {facts.version}, and version {seen.version} was seen here",
            hint=hint,
        )
    same = envelope.payload_sha256 == seen.payload_sha256
    if facts.version == seen.version and not same:
        raise RollbackError(
            f"it is another version {facts.version} than was seen here", hint=hint
        )


def _replace(directory: Path, name: str, data: bytes) -> None:
    """Replace a file, whole or not at all; the lock is held."""
    new = directory / _NEW_NAME
    fd = os.open(new, _WRITING, 0o600)
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        new.replace(directory / name)
    except BaseException:
        new.unlink(missing_ok=True)
        raise
    directory_fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory_fd)
    finally:
        os.close(directory_fd)
