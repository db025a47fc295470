"""From a directory on disk to an opened sealing, in the order of docs/format.md.

`SealedModel` is the directory, `LockedSealing` what needs no key; unlocking it gives a
`Sealing` (sealing.py). Descriptors are held, so that what was opened outlives renames
and removals on disk.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Final, Self, TypeVar

from cryptography.cobblestone import Cobblestone256Decryptor
from cryptography.exceptions import InvalidTag

from ovfuse.errors import (
    CipherdirError,
    DamagedError,
    NoUsableKeyError,
    OvfuseError,
)
from ovfuse.quote import quoted
from ovfuse.sealed import beneath, layout
from ovfuse.sealed.envelope import Envelope, parse_envelope
from ovfuse.sealed.manifest import Manifest, parse_manifest
from ovfuse.sealed.offsets import PREFIX_SIZE
from ovfuse.sealed.pointer import parse_pointer
from ovfuse.sealed.primitives import manifest_context
from ovfuse.sealed.reader import ScratchPool
from ovfuse.sealed.sealing import Sealing, SealingFiles
from ovfuse.sealed.wrapped import WrappedKey
from ovfuse.sealed.wrapping import Identity
from ovfuse.secret import Secret

__all__ = ["LockedSealing", "SealedModel", "inherit_sealing", "wrapped_again"]

_T = TypeVar("_T")

_SWITCHES_MAX: Final = 20
"""Each takes a writer a whole sealing; a hostile one must not keep readers for ever."""


class SealedModel:
    """The directory of one sealed model; owns its descriptor."""

    def __init__(self, directory_fd: int) -> None:
        self._fd = directory_fd

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> Self:
        """Open a directory that the user named.

        Raises:
            CipherdirError: it is missing, no directory, or cannot be read.
        """
        try:
            return cls(os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
        except OSError as error:
            raise CipherdirError(f"{quoted(path)}: {error.strerror}") from None

    @classmethod
    def at(cls, cipherdir_fd: int, place: str) -> Self:
        """Open the directory at `place`, components joined by `/`, in a tree.

        Raises:
            DamagedError, CipherdirError: it is missing, a link, or cannot be read.
        """
        with beneath.reading("cipherdir"):
            fd = os.dup(cipherdir_fd)
        for component in filter(None, place.split("/")):
            parent_fd = fd
            try:
                fd = beneath.open_directory(component, parent_fd, "directory")
            finally:
                os.close(parent_fd)
        return cls(fd)

    @property
    def fd(self) -> int:
        """The directory's descriptor."""
        return self._fd

    def is_sealed(self) -> bool:
        """Tell whether this is a sealed model, rather than a tree of them."""
        return any(
            beneath.exists(name, self._fd)
            for name in (layout.POINTER_NAME, layout.SEALS_NAME)
        )

    def pointer(self) -> str:
        """Return the current seal id.

        Raises:
            DamagedError, NewerFormatError, CipherdirError: no usable pointer.
        """
        what = "pointer model.ovfuse"
        fd, size = beneath.open_regular(layout.POINTER_NAME, self._fd, what)
        try:
            data = beneath.read_exactly(fd, min(size, layout.POINTER_MAX_SIZE), 0, what)
        finally:
            os.close(fd)
        if size > layout.POINTER_MAX_SIZE:
            data += b"..."  # too long for format 1; a newer one may be longer
        return parse_pointer(data)

    def current(self) -> "LockedSealing":
        """Open the sealing that the pointer names.

        Raises:
            DamagedError, NewerFormatError, CipherdirError: it is not whole.
        """
        return self._try_current(self.sealing)

    def with_current(self, use: Callable[["LockedSealing"], _T]) -> _T:
        """Return what `use` makes of the sealing that the pointer names.

        It is called again, with the next one, if it failed while a writer switched.

        Raises:
            DamagedError, NewerFormatError, CipherdirError: it is not whole.
            OvfuseError: what `use` raises.
        """

        def use_it(seal_id: str) -> _T:
            with self.sealing(seal_id) as locked:
                return use(locked)

        return self._try_current(use_it)

    def _try_current(self, use: Callable[[str], _T]) -> _T:
        """Return what `use` makes of the current seal id, once it stays so.

        A writer switches before it removes anything.
        """
        for _ in range(_SWITCHES_MAX):
            seal_id = self.pointer()
            try:
                return use(seal_id)
            except OvfuseError:
                if self.pointer() == seal_id:
                    raise
        raise CipherdirError("the sealed model is replaced faster than it can be read")

    def sealing(self, seal_id: str) -> "LockedSealing":
        """Open the sealing `seal_id`, current or not.

        Raises:
            DamagedError, CipherdirError: it is not whole.
        """
        seals_fd = beneath.open_directory(
            layout.SEALS_NAME, self._fd, "directory seals"
        )
        try:
            fd = beneath.open_directory(seal_id, seals_fd, "current sealing")
        finally:
            os.close(seals_fd)
        try:
            return LockedSealing(fd, seal_id)
        except BaseException:
            os.close(fd)
            raise

    def previous_finding(self, manifest: Manifest) -> str | None:
        """Tell what is wrong with the kept sealing before this one, if anything.

        None also where it is not kept any more, or there was none.
        """
        previous = manifest.previous
        if previous is None:
            return None
        try:
            with self.sealing(previous.seal_id) as older:
                if older.envelope.payload_sha256 == previous.payload_sha256:
                    return None
        except DamagedError as error:
            if isinstance(error.__context__, FileNotFoundError):
                return None
            return f"the sealing before this one: {error.message}"
        except CipherdirError as error:
            return f"the sealing before this one: {error.message}"
        return "the sealing before this one is not the one that its successor names"

    def close(self) -> None:
        """Close the directory."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class LockedSealing:
    """A sealing whose envelope is whole; nothing of it is decrypted yet.

    Attributes:
        envelope: verified under the signers' own keys; trust is the caller's matter.
    """

    def __init__(self, directory_fd: int, seal_id: str) -> None:
        self.envelope: Final[Envelope] = parse_envelope(
            beneath.read_small(
                layout.ENVELOPE_NAME, directory_fd, layout.ENVELOPE_MAX_SIZE, "envelope"
            ),
            seal_id,
        )
        self._fd = directory_fd

    @property
    def was_removed(self) -> bool:
        """Whether a writer has removed it meanwhile: the envelope goes first."""
        with suppress(OSError):
            return not beneath.exists(layout.ENVELOPE_NAME, self._fd)
        return False

    def open_keys(self) -> int:
        """Return a descriptor of the directory `keys`.

        Raises:
            DamagedError, CipherdirError: it is missing or cannot be read.
        """
        return beneath.open_directory(layout.KEYS_NAME, self._fd, "directory keys")

    @contextmanager
    def wrapped_key(self) -> Iterator[WrappedKey]:
        """Give what is needed to find the model key.

        Raises:
            DamagedError, CipherdirError: the key files are missing or cannot be read.
        """
        keys_fd = self.open_keys()
        try:
            yield _wrapped(keys_fd, self.envelope)
        finally:
            os.close(keys_fd)

    def key_files(self) -> Iterator[tuple[str, bytes]]:
        """Yield name and content of each key file; see `WrappedKey.files`."""
        with self.wrapped_key() as wrapped:
            yield from wrapped.files()

    def unlock(
        self,
        identities: list[Identity],
        pool: ScratchPool,
        ask: Callable[[], str | None] | None = None,
    ) -> "Sealing":
        """Open the sealing with the first identity that fits, or with a passphrase.

        Args:
            identities: tried first, on all key files.
            pool: for the readers of its files.
            ask: asks for the passphrase, if there is a key file for one; None from it
                means that nobody can be asked.

        Raises:
            NoUsableKeyError: none of them does.
            DamagedError, NewerFormatError, CipherdirError: it is not whole.
        """
        with self.wrapped_key() as wrapped:
            found = wrapped.find(identities, ask)
        if found is None:
            raise NoUsableKeyError("no identity opens it")
        return self.unlock_with(found.model_key, pool)

    def unlock_with(self, model_key: Secret, pool: ScratchPool) -> "Sealing":
        """Open the sealing with its model key, which is owned from here on.

        Raises:
            DamagedError, NewerFormatError, CipherdirError: it is not whole.
        """
        try:
            manifest = _open_manifest(self.envelope, model_key)
            return Sealing.in_directory(manifest, self._fd, model_key, pool)
        except BaseException:
            model_key.wipe()
            raise

    def close(self) -> None:
        """Close the directory; a `Sealing` that came from here goes on."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@contextmanager
def wrapped_again(envelope: Envelope, key_file: bytes) -> Iterator[WrappedKey]:
    """Give what is needed to find the model key in a key file that was kept."""
    keys_fd = os.memfd_create("ovfuse-key-file")
    try:
        os.write(keys_fd, key_file)
        yield _wrapped(keys_fd, envelope)
    finally:
        os.close(keys_fd)


def _wrapped(keys_fd: int, envelope: Envelope) -> WrappedKey:
    prefix = bytes(envelope.manifest_message[:PREFIX_SIZE])
    return WrappedKey(keys_fd, prefix, manifest_context(envelope.clear_facts))


def inherit_sealing(
    seal_id: str,
    payload_sha256: str,
    files: SealingFiles,
    find_key: Callable[[Envelope], Secret],
    pool: ScratchPool,
) -> tuple[Envelope, Sealing]:
    """Open a sealing that another process had unlocked, which was killed.

    Args:
        seal_id: of it.
        payload_sha256: of the envelope that was verified.
        files: of its directory; owned by the result or, if this fails, by the caller.
        find_key: returns the model key.
        pool: for the readers of its files.

    Raises:
        DamagedError, CipherdirError: it is not the same any more.
        OvfuseError: what `find_key` raises.
    """
    size = min(os.fstat(files.envelope).st_size, layout.ENVELOPE_MAX_SIZE)
    data = beneath.read_exactly(files.envelope, size, 0, "envelope")
    envelope = parse_envelope(data, seal_id)
    if envelope.payload_sha256 != payload_sha256:
        raise DamagedError("the envelope is another one than was verified")
    model_key = find_key(envelope)
    try:
        manifest = _open_manifest(envelope, model_key)
    except BaseException:
        model_key.wipe()
        raise
    return envelope, Sealing(manifest, files, model_key, pool)


def _open_manifest(envelope: Envelope, model_key: Secret) -> Manifest:
    context = manifest_context(envelope.clear_facts)
    decryptor = Cobblestone256Decryptor(model_key.view, context)
    try:
        data = decryptor.update(envelope.manifest_message)
        data += decryptor.finalize()
    except InvalidTag:
        raise DamagedError("the manifest is corrupted or tampered with") from None
    return parse_manifest(data, envelope.facts)
