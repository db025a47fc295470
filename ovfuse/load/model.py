"""The model as an app sees it: files, and what OpenVINO makes of them."""

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final, Self

from ovfuse.load.cache import CompileCache
from ovfuse.load.dumps import check_dumps
from ovfuse.load.reading import read_model
from ovfuse.load.source import SealingFacts, Source, check_path
from ovfuse.load.tensors import read_tensor
from ovfuse.sealed.wrapping import Identity

if TYPE_CHECKING:
    import openvino

__all__ = ["OpenModel"]

_BUFFER_SIZE: Final = 64 * 1024


class OpenModel:
    """A model whose files can be read and loaded until it is closed.

    A context manager. Closing it closes descriptors and wipes keys; what OpenVINO has
    loaded goes on, since it owns that memory. Any thread.

    Args:
        source: its files, owned from here on.
        allow_dumps: load also while OpenVINO is told to write models to disk.
        identities: at hand, of which one keeps what is compiled to this device.
    """

    def __init__(
        self,
        source: Source,
        *,
        allow_dumps: bool = False,
        identities: Sequence[Identity] = (),
    ) -> None:
        self._source = source
        self._allow_dumps = allow_dumps
        self._cache = CompileCache(source, identities)

    @property
    def files(self) -> Mapping[str, int]:
        """Size in bytes of each file by its path (`a/b.bin`), sorted."""
        return self._source.files

    @property
    def facts(self) -> SealingFacts | None:
        """Which sealing it is; None on a mount, which does not tell."""
        return self._source.facts

    def read_bytes(self, path: str) -> bytes:
        """Return a whole file.

        Raises:
            NotFoundError, IsADirectoryNodeError, DamagedError, CipherdirError: see
                `Source.read_into`.
        """
        buffer = bytearray(check_path(self.files, path))
        self._source.read_into(path, memoryview(buffer))
        return bytes(buffer)

    def open(self, path: str) -> io.BufferedReader:
        """Open a file for reading, seekable; closing the model closes it.

        Each block is authenticated when it is read, so that damage further on is found
        later.

        Raises:
            NotFoundError, IsADirectoryNodeError, DamagedError, CipherdirError: see
                `Source.open`.
        """
        return io.BufferedReader(self._source.open(path), _BUFFER_SIZE)

    def read_model(self, core: "openvino.Core", path: str) -> "openvino.Model":
        """Read a model as `core.read_model` would by its path.

        Args:
            core: of the app.
            path: of the .xml, .onnx, .pdmodel, .tflite or .pb, or the directory of a
                SavedModel; weights are found by its name.

        Raises:
            NotFoundError, IsADirectoryNodeError, DamagedError, CipherdirError: before
                OpenVINO is called; see `Source.read_into`.
            LoadError: not a kind that can be loaded so, or see `open_model`.
            RuntimeError: OpenVINO's own.
        """
        check_dumps(allowed=self._allow_dumps)
        model = read_model(self._source, core, path)
        self._cache.warn_of_core(core)
        return model

    def compile_model(
        self,
        core: "openvino.Core",
        path: str,
        device: str = "AUTO",
        config: Mapping[str, Any] | None = None,
    ) -> "openvino.CompiledModel":
        """Read a model and compile it, as `core.compile_model` would by its path.

        What was compiled before is imported instead: by `ovfuse compile`, or in the
        CACHE_DIR of the app, where it is kept sealed. OpenVINO's own cache is off.

        Args:
            core: of the app.
            path: see `read_model`.
            device: such as `CPU`.
            config: of the compilation.

        Raises:
            see `read_model`.
        """
        check_dumps(allowed=self._allow_dumps)
        return self._cache.compile_model(core, path, device, config or {})

    def save_compiled(
        self,
        core: "openvino.Core",
        path: str,
        device: str,
        config: Mapping[str, Any] | None = None,
    ) -> int:
        """Compile a model for `compile_model` to import on this device, from now on.

        What `ovfuse compile` does: the result is kept in a sealed cache of the account.

        Args:
            core: of the app.
            path: see `read_model`.
            device: one that exports, such as `CPU`.
            config: of the compilation; the same as later.

        Returns:
            The size of the compiled blob in bytes.

        Raises:
            LoadError: the device exports nothing, or it cannot be written.
            KeyFileError: no age identity of this account is at hand.
            see `read_model`.
        """
        check_dumps(allowed=self._allow_dumps)
        return self._cache.save_compiled(core, path, device, config or {})

    def import_model(
        self,
        core: "openvino.Core",
        path: str,
        device: str,
        config: Mapping[str, Any] | None = None,
    ) -> "openvino.CompiledModel":
        """Import a compiled blob, which is not copied.

        OpenVINO checks little in a blob, but what is sealed is the publisher's.

        Args:
            core: of the app.
            path: of the blob.
            device: that it was compiled for.
            config: of the import.

        Raises:
            see `read_model`.
        """
        check_dumps(allowed=self._allow_dumps)
        tensor = read_tensor(self._source, path)
        return core.import_model(tensor, device, dict(config or {}))

    def files_for_loading(self) -> Source:
        """Return the files, for what else hands them to OpenVINO: genai.py.

        Raises:
            LoadError: OpenVINO is told to write models to disk; see `open_model`.
        """
        check_dumps(allowed=self._allow_dumps)
        return self._source

    def close(self) -> None:
        """Close every descriptor and wipe the keys; a second call does nothing."""
        self._source.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
