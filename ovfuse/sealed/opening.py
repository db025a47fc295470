"""From a directory on disk to an opened sealing, in the order of docs/format.md.

`SealedModel` is the directory, `LockedSealing` what needs no key, `Sealing` what an
identity opened. Descriptors are held, so that what was opened outlives renames and
removals on disk. All of it may be used by many threads.
"""

import logging
import os
import re
from collections.abc import Callable, Iterator
from typing import Final, Self

from cryptography.cobblestone import Cobblestone256Decryptor
from cryptography.exceptions import InvalidTag

from ovfuse.errors import (
    CipherdirError,
    DamagedError,
    NewerFormatError,
    NoUsableKeyError,
)
from ovfuse.quote import quoted
from ovfuse.sealed import beneath, layout
from ovfuse.sealed.blocks import BlockList
from ovfuse.sealed.envelope import Envelope, parse_envelope
from ovfuse.sealed.manifest import FileEntry, Manifest, parse_manifest
from ovfuse.sealed.offsets import PREFIX_SIZE, block_list_size, message_size
from ovfuse.sealed.primitives import (
    ChunkDecryptor,
    manifest_context,
    object_context,
    opens,
)
from ovfuse.sealed.reader import ObjectReader, ScratchPool
from ovfuse.sealed.stream import plaintext_pieces
from ovfuse.sealed.wrapping import Identity, stanza_types, unwrap
from ovfuse.secret import Secret

__all__ = ["LockedSealing", "SealedModel", "Sealing", "parse_pointer"]

_log = logging.getLogger(__name__)

_POINTER: Final = re.compile(rb"ovfuse ([1-9][0-9]{0,8})( (?:.|\n)*)?\Z")
_POINTER_REST: Final = re.compile(rb" ([0-9a-f]{32})\n\Z")
_SWITCHES_MAX: Final = 5


def parse_pointer(data: bytes) -> str:
    """Return the seal id in the content of `model.ovfuse`.

    Raises:
        NewerFormatError: of another format version.
        DamagedError: not a pointer.
    """
    match = _POINTER.match(data)
    if match is None:
        raise DamagedError("the pointer model.ovfuse is malformed")
    version = int(match[1])
    if version != layout.FORMAT_VERSION:
        raise NewerFormatError(f"made by a newer ovfuse (format {version})")
    rest = _POINTER_REST.match(match[2] or b"")
    if rest is None:
        raise DamagedError("the pointer model.ovfuse is malformed")
    return rest[1].decode()


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
        fd, size = beneath.open_regular(
            layout.POINTER_NAME, self._fd, "pointer model.ovfuse"
        )
        try:
            data = os.pread(fd, layout.POINTER_MAX_SIZE, 0)
        except OSError as error:
            raise CipherdirError(f"the pointer: {error.strerror}") from None
        finally:
            os.close(fd)
        if size > layout.POINTER_MAX_SIZE:
            data += b"..."  # whatever follows, the version in front still speaks
        return parse_pointer(data)

    def current(self) -> "LockedSealing":
        """Open the sealing that the pointer names.

        Raises:
            DamagedError, NewerFormatError, CipherdirError: it is not whole.
        """
        seal_id = self.pointer()
        for _ in range(_SWITCHES_MAX):
            try:
                return self.sealing(seal_id)
            except DamagedError:
                # A writer may have switched and cleaned up between both steps.
                newest = self.pointer()
                if newest == seal_id:
                    raise
                seal_id = newest
        raise CipherdirError("the sealed model is replaced faster than it can be read")

    def sealing(self, seal_id: str) -> "LockedSealing":
        """Open the sealing `seal_id`, current or not.

        Raises:
            DamagedError, CipherdirError: it is not whole.
        """
        seals_fd = beneath.open_directory(layout.SEALS_NAME, self._fd, "directory seals")
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
        data = beneath.read_small(
            layout.ENVELOPE_NAME, directory_fd, layout.ENVELOPE_MAX_SIZE, "envelope"
        )
        self.envelope: Final[Envelope] = parse_envelope(data, seal_id)
        self._fd = directory_fd

    def key_files(self) -> Iterator[bytes]:
        """Yield the content of each key file; unusable ones are logged and left out.

        Raises:
            DamagedError: there are too many.
            CipherdirError: the directory cannot be read.
        """
        keys_fd = beneath.open_directory(layout.KEYS_NAME, self._fd, "directory keys")
        try:
            for name in _key_file_names(keys_fd):
                try:
                    data = beneath.read_small(
                        name, keys_fd, layout.KEY_FILE_MAX_SIZE, "key file"
                    )
                    stanza_types(data)
                except (DamagedError, CipherdirError) as error:
                    _log.warning("skipped %s: %s", quoted(name), error.message)
                    continue
                yield data
        finally:
            os.close(keys_fd)

    def unlock(self, identities: list[Identity], pool: ScratchPool) -> "Sealing":
        """Open the sealing with the first identity that fits.

        Raises:
            NoUsableKeyError: none of them does.
            DamagedError, NewerFormatError, CipherdirError: it is not whole.
        """
        model_key = self._find_model_key(identities)
        try:
            return Sealing(self._open_manifest(model_key), self._fd, model_key, pool)
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

    def _find_model_key(self, identities: list[Identity]) -> Secret:
        prefix = self.envelope.manifest_message[:PREFIX_SIZE]
        context = manifest_context(self.envelope.clear_facts)
        for data in self.key_files():
            candidate = unwrap(data, identities)
            if candidate is None:
                continue
            if opens(candidate.view, prefix, context):
                return candidate
            candidate.wipe()
            _log.warning("skipped a key file with the key of another sealing")
        raise NoUsableKeyError("no identity opens it")

    def _open_manifest(self, model_key: Secret) -> Manifest:
        context = manifest_context(self.envelope.clear_facts)
        decryptor = Cobblestone256Decryptor(model_key.view, context)
        try:
            data = decryptor.update(self.envelope.manifest_message)
            data += decryptor.finalize()
        except InvalidTag:
            raise DamagedError("the manifest is corrupted or tampered with") from None
        return parse_manifest(data, self.envelope.facts)


def _key_file_names(keys_fd: int) -> Iterator[str]:
    suffix = layout.KEY_SUFFIX
    count = 0
    with beneath.reading("directory keys"), os.scandir(keys_fd) as entries:
        for entry in entries:
            count += 1
            if count > layout.KEY_FILES_MAX:
                raise DamagedError(f"more than {layout.KEY_FILES_MAX} key files")
            name = entry.name
            if name.endswith(suffix) and layout.is_id(name.removesuffix(suffix)):
                yield name


class Sealing:
    """An unlocked sealing: its manifest, and its files by manifest entry.

    Owns the model key and two descriptors, so that its files can be opened as
    long as they exist, wherever the directory is by then.

    Raises:
        DamagedError, CipherdirError: the file `blocks` or `objects` is not as it must be.
    """

    def __init__(
        self, manifest: Manifest, directory_fd: int, model_key: Secret, pool: ScratchPool
    ) -> None:
        self.manifest: Final = manifest
        self._model_key = model_key
        self._pool = pool
        self._list_offsets = _list_offsets(manifest)
        self._blocks_fd, size = beneath.open_regular(
            layout.BLOCKS_NAME, directory_fd, "file of block lists"
        )
        try:
            if size != manifest.blocks_size:
                raise DamagedError("the file of block lists has a wrong size")
            self._objects_fd = beneath.open_directory(
                layout.OBJECTS_NAME, directory_fd, "directory objects"
            )
        except BaseException:
            os.close(self._blocks_fd)
            raise

    @property
    def model_key(self) -> Secret:
        """The key; wiped by `close`."""
        return self._model_key

    def open_file(self, entry: FileEntry) -> ObjectReader:
        """Open a file for random access: object, list and prefix, all checked.

        Raises:
            DamagedError: object or list are missing, or not what was signed.
            CipherdirError: they cannot be read.
        """
        fd, prefix, blocks = self._open_object(entry)
        try:
            context = object_context(self.manifest.facts.seal_id, entry.object_id)
            chunks = ChunkDecryptor(self._model_key.view, prefix, context)
        except BaseException:
            os.close(fd)
            raise
        return ObjectReader(
            fd,
            plaintext_size=entry.size,
            padded_size=entry.padded_size,
            blocks=blocks,
            chunks=chunks,
            pool=self._pool,
        )

    def stream_file(self, entry: FileEntry) -> Iterator[memoryview]:
        """Yield a whole file's plaintext; see `plaintext_pieces`.

        Raises:
            DamagedError, CipherdirError: as `open_file`.
        """
        fd, prefix, blocks = self._open_object(entry)
        try:
            yield from plaintext_pieces(
                fd,
                entry,
                prefix=prefix,
                blocks=blocks,
                model_key=self._model_key.view,
                context=object_context(self.manifest.facts.seal_id, entry.object_id),
            )
        finally:
            os.close(fd)

    def verify_file(self, entry: FileEntry, on_bytes: Callable[[int], None]) -> None:
        """Read a whole file and release nothing.

        Raises:
            DamagedError, CipherdirError: as `open_file`.
        """
        for piece in self.stream_file(entry):
            on_bytes(len(piece))

    def close(self) -> None:
        """Wipe the key and close the descriptors; open files go on."""
        self._model_key.wipe()
        for fd in (self._blocks_fd, self._objects_fd):
            if fd >= 0:
                os.close(fd)
        self._blocks_fd = self._objects_fd = -1

    def _open_object(self, entry: FileEntry) -> tuple[int, bytes, BlockList]:
        fd, size = beneath.open_regular(entry.object_id, self._objects_fd, "object")
        try:
            if size != message_size(entry.padded_size):
                raise DamagedError("an object has a wrong size")
            prefix = beneath.read_exactly(fd, PREFIX_SIZE, 0, "object")
            entries = beneath.read_exactly(
                self._blocks_fd,
                block_list_size(entry.padded_size),
                self._list_offsets[entry.object_id],
                "file of block lists",
            )
            return fd, prefix, BlockList(prefix, entries, entry.block_list_hash)
        except BaseException:
            os.close(fd)
            raise


def _list_offsets(manifest: Manifest) -> dict[str, int]:
    offsets = {}
    position = 0
    for entry in manifest.files:
        offsets[entry.object_id] = position
        position += block_list_size(entry.padded_size)
    return offsets
