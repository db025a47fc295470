"""Writing a sealing: complete and new on disk, then one rename that switches to it.

Killed at any moment this leaves the old or the new model, whole; what is left lying
under seals/ is removed by the next run. An flock on the directory keeps a second
writer out.
"""

import contextlib
import fcntl
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from secrets import token_hex
from typing import Final, Self

from cryptography.cobblestone import Cobblestone256Encryptor

from ovfuse.errors import BusyError, CipherdirError, DamagedError, SourceError
from ovfuse.quote import quoted
from ovfuse.sealed import layout
from ovfuse.sealed.canonical import encode
from ovfuse.sealed.disk import (
    create_file,
    make_directory,
    remove_tree,
    sync_filesystem,
)
from ovfuse.sealed.envelope import make_envelope, make_payload
from ovfuse.sealed.manifest import (
    ClearFacts,
    FileEntry,
    Manifest,
    Previous,
    Terms,
    parse_manifest,
)
from ovfuse.sealed.opening import LockedSealing, SealedModel
from ovfuse.sealed.pointer import make_pointer
from ovfuse.sealed.primitives import (
    manifest_context,
    object_context,
    recipient_file_id,
)
from ovfuse.sealed.seals import (
    NEW_POINTER,
    check_usable,
    complete_sealings,
    remove_others,
)
from ovfuse.sealed.signing import SigningKey
from ovfuse.sealed.source import SourceFile, SourceTree
from ovfuse.sealed.wrapping import (
    PASSPHRASE,
    Recipient,
    wrap,
    wrap_with_passphrase,
)
from ovfuse.sealed.writer import ObjectWriter, write_all
from ovfuse.secret import Secret

__all__ = ["CipherdirWriter", "SealingPlan"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SealingPlan:
    """All that a new sealing is, but its files."""

    facts: ClearFacts
    name: str
    previous: Previous | None
    terms: Terms
    recipients: Sequence[Recipient]
    passphrase: str | None
    signing_key: SigningKey


class CipherdirWriter:
    """A cipherdir, locked against other writers while this is open."""

    def __init__(self, path: Path, model: SealedModel, *, created: bool) -> None:
        self._path = path
        self._model = model
        self._created = created
        self.has_sealing: Final = _has_entry(model.fd, layout.POINTER_NAME)

    @classmethod
    def open(cls, path: Path, *, create: bool = True) -> Self:
        """Make the directory if it is missing, and lock it.

        Args:
            path: of the sealed model.
            create: False if there must be one already.

        Raises:
            CipherdirError: it holds something else, or cannot be used.
            BusyError: another process is writing to it.
        """
        created = create and _make_missing(path)
        model = SealedModel.open(path)
        try:
            fcntl.flock(model.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            check_usable(model.fd, path, empty=create)
            return cls(path, model, created=created)
        except BlockingIOError:
            model.close()
            raise BusyError(
                f"{quoted(path)} is being written by another process"
            ) from None
        except OSError as error:
            model.close()
            raise CipherdirError(f"{quoted(path)}: {error.strerror}") from None
        except BaseException:
            model.close()
            raise

    @property
    def model(self) -> SealedModel:
        """The directory, locked."""
        return self._model

    def current(self) -> LockedSealing:
        """Open the current sealing; see `SealedModel.current`."""
        return self._model.current()

    def write(
        self, plan: SealingPlan, source: SourceTree, on_bytes: Callable[[int], None]
    ) -> Manifest:
        """Write the sealing and switch to it; return its manifest.

        Raises:
            SourceError: a file changed or cannot be read; nothing was changed.
            CipherdirError: the disk refused; nothing was changed, unless it says so.
        """
        try:
            with self._seals() as seals_fd:
                before = self._current_ids()
                remove_others(before | complete_sealings(seals_fd), seals_fd)
                manifest = _write_sealing(plan, source, seals_fd, on_bytes)
                self._switch(plan.facts.seal_id, seals_fd)
                # Only now: until the switch, the sealing before is still needed.
                with contextlib.suppress(OSError):  # the next run tries again
                    remove_others(before | {plan.facts.seal_id}, seals_fd)
                return manifest
        except OSError as error:
            reason = error.strerror or "input/output error"
            raise CipherdirError(f"{quoted(self._path)}: {reason}") from None

    def prune(self) -> int:
        """Remove every sealing but the current one, which must be whole.

        Returns:
            How many were removed.

        Raises:
            DamagedError, CipherdirError: there is no whole current sealing, or the
                disk refuses.
        """
        with self.current() as current:
            keep = {current.envelope.facts.seal_id}
        try:
            with self._seals() as seals_fd:
                return remove_others(keep, seals_fd)
        except OSError as error:
            raise CipherdirError(f"{quoted(self._path)}: {error.strerror}") from None

    def close(self) -> None:
        """Give the lock back."""
        self._model.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._remove_empty()
        self.close()

    def _current_ids(self) -> set[str]:
        # A damaged pointer keeps nothing alive, and --new-model may replace it.
        with contextlib.suppress(DamagedError):
            return {self._model.pointer()}
        return set()

    @contextlib.contextmanager
    def _seals(self) -> Iterator[int]:
        seals_fd = make_directory(layout.SEALS_NAME, self._model.fd, exist_ok=True)
        try:
            yield seals_fd
        finally:
            os.close(seals_fd)

    def _switch(self, seal_id: str, seals_fd: int) -> None:
        """Make the sealing last, then replace the pointer; or remove the sealing."""
        try:
            sync_filesystem(seals_fd)
            _write_file(NEW_POINTER, seals_fd, make_pointer(seal_id), sync=True)
            os.rename(
                NEW_POINTER,
                layout.POINTER_NAME,
                src_dir_fd=seals_fd,
                dst_dir_fd=self._model.fd,
            )
        except BaseException:
            with contextlib.suppress(OSError, CipherdirError):
                unused = {NEW_POINTER, seal_id} - self._current_ids()
                remove_others(set(os.listdir(seals_fd)) - unused, seals_fd)
            raise
        self._sync_pointer()

    def _sync_pointer(self) -> None:
        """Make the switch last. It has happened: nothing is removed after an error."""
        try:
            os.fsync(self._model.fd)
        except OSError as error:
            raise CipherdirError(
                f"{quoted(self._path)} was switched to the new sealing, but that may "
                f"not survive a power failure: {error.strerror}"
            ) from None

    def _remove_empty(self) -> None:
        """After a failed first sealing: leave nothing, not even a directory."""
        if self.has_sealing:
            return
        with contextlib.suppress(OSError):
            os.rmdir(layout.SEALS_NAME, dir_fd=self._model.fd)
        if self._created:
            with contextlib.suppress(OSError):
                self._path.rmdir()


def _has_entry(directory_fd: int, name: str) -> bool:
    return name in os.listdir(directory_fd)


def _make_missing(path: Path) -> bool:
    try:
        path.mkdir()
    except FileExistsError:
        return False
    except OSError as error:
        raise CipherdirError(f"{quoted(path)}: {error.strerror}") from None
    return True


def _write_sealing(
    plan: SealingPlan,
    source: SourceTree,
    seals_fd: int,
    on_bytes: Callable[[int], None],
) -> Manifest:
    """Write seals/SEAL_ID, or remove what was written of it."""
    seal_id = plan.facts.seal_id
    seal_fd = make_directory(seal_id, seals_fd)
    try:
        with Secret.random(layout.MODEL_KEY_SIZE) as model_key:
            files = _write_objects(seal_id, source, seal_fd, model_key, on_bytes)
            manifest = Manifest(
                critical=(),
                directories=source.directories,
                extensions={},
                facts=plan.facts,
                files=files,
                name=plan.name,
                previous=plan.previous,
                terms=plan.terms,
            )
            envelope = _make_envelope(manifest, plan.signing_key, model_key)
            _write_file(layout.ENVELOPE_NAME, seal_fd, envelope)
            _write_keys(plan, seal_fd, model_key)
        return manifest
    except BaseException:
        with contextlib.suppress(OSError):
            remove_tree(seal_id, seals_fd)
        raise
    finally:
        os.close(seal_fd)


def _write_objects(
    seal_id: str,
    source: SourceTree,
    seal_fd: int,
    model_key: Secret,
    on_bytes: Callable[[int], None],
) -> tuple[FileEntry, ...]:
    objects_fd = make_directory(layout.OBJECTS_NAME, seal_fd)
    blocks_fd = create_file(layout.BLOCKS_NAME, seal_fd)
    writer = ObjectWriter(model_key.view)
    try:
        return tuple(
            _write_object(writer, file, seal_id, objects_fd, blocks_fd, on_bytes)
            for file in source.files
        )
    finally:
        writer.close()
        os.close(blocks_fd)
        os.close(objects_fd)


def _write_object(  # noqa: PLR0913, PLR0917 - one file from here to there
    writer: ObjectWriter,
    file: SourceFile,
    seal_id: str,
    objects_fd: int,
    blocks_fd: int,
    on_bytes: Callable[[int], None],
) -> FileEntry:
    object_id = token_hex(layout.ID_SIZE)
    context = object_context(seal_id, object_id)
    with file.open() as read_into:
        target_fd = create_file(object_id, objects_fd)
        try:
            written = writer.write(read_into, target_fd, context, on_bytes)
        finally:
            os.close(target_fd)
    if written.plaintext_size != file.size:
        raise SourceError(f"{quoted(file.path)} changed while it was being sealed")
    write_all(blocks_fd, written.block_list)
    return FileEntry(
        block_list_hash=written.block_list_hash,
        object_id=object_id,
        padded_size=written.plaintext_size,
        path=file.path,
        plaintext_sha256=written.plaintext_sha256,
        size=written.plaintext_size,
    )


def _make_envelope(
    manifest: Manifest, signing_key: SigningKey, model_key: Secret
) -> bytes:
    data = encode(manifest)
    parse_manifest(data, manifest.facts)  # never publish what readers would refuse
    clear_facts = encode(manifest.facts)
    encryptor = Cobblestone256Encryptor(model_key.view, manifest_context(clear_facts))
    message = encryptor.update(data) + encryptor.finalize()
    envelope = make_envelope(make_payload(clear_facts, message), [signing_key])
    if len(envelope) > layout.ENVELOPE_MAX_SIZE:
        raise SourceError("the paths in the model directory are too long in all")
    return envelope


def _write_keys(plan: SealingPlan, seal_fd: int, model_key: Secret) -> None:
    files = {r.canonical: wrap(model_key, r) for r in plan.recipients}
    if plan.passphrase is not None:
        files[PASSPHRASE] = wrap_with_passphrase(model_key, plan.passphrase)
    keys_fd = make_directory(layout.KEYS_NAME, seal_fd)
    try:
        for recipient, data in files.items():
            name = recipient_file_id(model_key.view, recipient)
            _write_file(name + layout.KEY_SUFFIX, keys_fd, data)
    finally:
        os.close(keys_fd)


def _write_file(name: str, parent_fd: int, data: bytes, *, sync: bool = False) -> None:
    fd = create_file(name, parent_fd)
    try:
        write_all(fd, data)
        if sync:
            os.fsync(fd)
    finally:
        os.close(fd)
