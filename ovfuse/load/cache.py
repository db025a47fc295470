"""What is compiled once and used again: the cache that an app wants, and `compile`.

OpenVINO's own cache stays off. Its blobs hold weights in clear, also with its callbacks
for encryption; the mode that is to keep weights out leaves in whatever OpenVINO has
computed from them, and with most formats but IR the weights themselves; and only the
topology is authenticated (docs/loader.md has what was measured). So blobs are exported
into memory and kept sealed (blobs.py): in the directory that the app calls its cache,
and for `compile` in one of this device's own.
"""

import io
import logging
import warnings
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ovfuse.errors import BusyError, LoadError, OvfuseError, describe
from ovfuse.keys.device import DeviceSecret
from ovfuse.keys.places import cache_directory
from ovfuse.load.blobs import BLOB_LABEL, Blob, BlobFacts, StaleError
from ovfuse.load.formats import kind_of
from ovfuse.load.reading import read_model
from ovfuse.load.settings import cache_place, settings_text, without_cache
from ovfuse.load.source import SealingFacts, Source
from ovfuse.load.trial import EXPORTING, IMPORTING, trial_of
from ovfuse.memory import wipe
from ovfuse.quote import quoted
from ovfuse.sealed.primitives import combined_key, private_name
from ovfuse.sealed.wrapping import Identity
from ovfuse.secret import Secret

if TYPE_CHECKING:
    import openvino

__all__ = ["CompileCache"]

_log = logging.getLogger(__name__)

_NAME_LABEL: Final = b"ovfuse.compiled-name.v1"
_COMPILED_NAME: Final = "compiled"
_APPS_CALL: Final = 5  # so many frames up is the app, for most warnings


@dataclass(frozen=True, slots=True, kw_only=True)
class _Work:
    """What is to be compiled, and how."""

    source: Source
    core: "openvino.Core"
    path: str
    device: str
    config: Mapping[str, Any]

    def compile(self, *, for_export: bool = False) -> "openvino.CompiledModel":
        config = without_cache(self.config)
        if for_export:
            config.update(EXPORTING)
        model = read_model(self.source, self.core, self.path)
        return self.core.compile_model(model, self.device, config)

    def import_blob(self, tensor: "openvino.Tensor") -> "openvino.CompiledModel":
        config = {**without_cache(self.config), **IMPORTING}
        return self.core.import_model(tensor, self.device, config)

    def __str__(self) -> str:
        return f"{quoted(self.path)} for {quoted(self.device)}"


class CompileCache:
    """Compiles the models of one source, or imports what was compiled before.

    Any thread.

    Args:
        source: of the models.
        identities: at hand, of which one keeps this device's secret.
    """

    def __init__(self, source: Source, identities: Sequence[Identity]) -> None:
        self._source = source
        self._identities = identities
        self._warned: set[str] = set()

    def compile_model(
        self, core: "openvino.Core", path: str, device: str, config: Mapping[str, Any]
    ) -> "openvino.CompiledModel":
        """See `OpenModel.compile_model`."""
        kind_of(self._source, path)  # or there is nothing to look for
        place = cache_place(core, device, config)
        if place is not None:
            _check_quiet(device)
        work = _Work(
            source=self._source, core=core, path=path, device=device, config=config
        )
        blob = self._find_blob(work, place)
        if blob is None:
            return work.compile()
        with blob.key:
            return (
                self._load(work, blob, _own_directory(), "run ovfuse compile again")
                or (place and self._load(work, blob, place, "it is made again"))
                or (place and self._compile_and_keep(work, blob, place))
                or work.compile()
            )

    def warn_of_core(self, core: "openvino.Core") -> None:
        """Warn if what the app compiles by itself would be written in clear."""
        if core.get_property("CACHE_DIR"):
            self._warn(
                "this core has a CACHE_DIR, to which its compile_model writes the model"
                " in clear; the open model's compile_model does not",
                stacklevel=4,
            )

    def save_compiled(
        self, core: "openvino.Core", path: str, device: str, config: Mapping[str, Any]
    ) -> int:
        """See `OpenModel.save_compiled`."""
        kind_of(self._source, path)
        own = _own_directory()
        if own is None:
            raise LoadError("there is no home directory for compiled blobs")
        _check_quiet(device)
        work = _Work(
            source=self._source, core=core, path=path, device=device, config=config
        )
        blob = self._make_blob(work)
        if blob is None:
            raise LoadError("the secret of this device was removed just now")
        with blob.key:
            try:
                return _keep(work.compile(for_export=True), blob, own)
            except OSError as error:
                raise LoadError(f"{quoted(own)}: {error.strerror}") from None

    def _find_blob(self, work: _Work, place: Path | None) -> Blob | None:
        """Return the blob to look for; None if there can be none."""
        own = _own_directory()
        if place is None and (own is None or not own.is_dir()):
            return None
        try:
            return self._make_blob(work, only_in=None if place is not None else own)
        except OvfuseError as error:
            if place is not None:
                self._warn(f"compiled models are not cached: {error.message}")
            return None

    def _make_blob(self, work: _Work, *, only_in: Path | None = None) -> Blob | None:
        """Return what the blob is called, made from, and encrypted under.

        Args:
            work: that the blob is the result of.
            only_in: None if it is not there; else this device's secret is made.

        Raises:
            LoadError: it cannot be known, or the device exports nothing.
            KeyFileError: the secret cannot be used.
        """
        settings = settings_text(work.core, work.device, work.config)
        facts, derived = self._source.facts, self._source.derive_key(BLOB_LABEL)
        if facts is None or derived is None:
            raise LoadError("on a mount only the daemon has a key for it")
        with derived, self._device_secret(make=only_in is None) as secret:
            if secret is None:
                return None
            text = f"{facts.model_id}\0{work.path}\0{work.device}\0{settings}"
            name = private_name(secret.view, _NAME_LABEL, text.encode())
            if only_in is not None and not Blob.exists(only_in, name):
                return None
            return Blob(
                facts=_facts(facts, work.device, name),
                key=combined_key(derived.view, secret.view, BLOB_LABEL),
            )

    def _device_secret(self, *, make: bool) -> AbstractContextManager[Secret | None]:
        directory = cache_directory()
        if directory is None:
            raise LoadError("there is no home directory for the secret of this device")
        device = DeviceSecret(directory, self._identities)
        return (device.find_or_make() if make else device.find()) or nullcontext()

    def _load(
        self, work: _Work, blob: Blob, directory: Path | None, remedy: str
    ) -> "openvino.CompiledModel | None":
        """Import the blob from a directory, if it is there and as it must be."""
        if directory is None or not Blob.exists(directory, blob.facts.name):
            return None
        try:
            return work.import_blob(blob.read(directory))
        except StaleError as error:
            text = f"what was compiled of {work} is not used: {error.message}; {remedy}"
            if directory == _own_directory():
                self._warn(text)
            else:  # an app that caches expects no less
                _log.info("%s", text)
        except OvfuseError as error:
            self._warn(f"what was compiled of {work} is not used: {error.message}")
        except (OSError, RuntimeError) as error:
            self._warn(f"what was compiled of {work} is not used: {describe(error)}")
        return None

    def _compile_and_keep(
        self, work: _Work, blob: Blob, directory: Path
    ) -> "openvino.CompiledModel":
        compiled = work.compile(for_export=True)
        try:
            _keep(compiled, blob, directory)
        except BusyError:  # by whoever compiles the same
            pass
        except (OSError, RuntimeError) as error:
            self._warn(f"what was compiled of {work} is not cached: {describe(error)}")
        return compiled

    def _warn(self, text: str, stacklevel: int = _APPS_CALL) -> None:
        if text not in self._warned:
            self._warned.add(text)
            warnings.warn(text, UserWarning, stacklevel=stacklevel)


def _own_directory() -> Path | None:
    """Return where `ovfuse compile` keeps blobs; None where there is no home."""
    directory = cache_directory()
    return None if directory is None else directory / _COMPILED_NAME


def _check_quiet(device: str) -> None:
    if not trial_of(device).is_quiet:
        raise LoadError(
            f"the device {quoted(device)} writes what it compiles to disk, although "
            "told not to",
            hint="do not set CACHE_DIR for this device",
        )


def _facts(facts: SealingFacts, device: str, name: str) -> BlobFacts:
    import openvino  # noqa: PLC0415 - takes long; whoever gets here needs it

    hardware = trial_of(device).hardware
    if hardware is None:
        raise LoadError(f"the device {quoted(device)} exports nothing that can be used")
    return BlobFacts(
        device=device,
        format=1,
        hardware=hardware,
        name=name,
        openvino=openvino.get_version(),
        payload_sha256=facts.payload_sha256,
        seal_id=facts.seal_id,
    )


def _keep(compiled: "openvino.CompiledModel", blob: Blob, directory: Path) -> int:
    """Export, write and wipe; return the size in bytes."""
    exported: io.BytesIO = compiled.export_model()
    with exported.getbuffer() as content:
        try:
            blob.write(directory, content)
            return len(content)
        finally:
            wipe(content)
