"""Pipelines of openvino_genai from a sealed directory, without a mount.

The LLM pipeline and the tokenizer are made from memory that OpenVINO owns. Pipelines
whose constructors take nothing but a path get a private directory of links to memory
files while they are made, under the names that such directories have by convention.
"""

import json
import re
import warnings
from collections.abc import Callable
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Final, TypeVar

from ovfuse.errors import LoadError
from ovfuse.load.formats import MOUNT_HINT
from ovfuse.load.memory_files import MemoryFile, linked
from ovfuse.load.model import OpenModel
from ovfuse.load.settings import wants_cache, without_cache
from ovfuse.load.source import Source
from ovfuse.load.tensors import read_tensor
from ovfuse.quote import quoted

if TYPE_CHECKING:
    import openvino
    import openvino_genai

__all__ = ["llm_pipeline", "pipeline", "tokenizer"]

_MODEL: Final = "openvino_model"
_TOKENIZER: Final = "openvino_tokenizer"
_DETOKENIZER: Final = "openvino_detokenizer"
_GENERATION: Final = "generation_config.json"
_TEMPLATE: Final = "chat_template.jinja"
_WITH_TEMPLATE: Final = (
    "chat_template.json",
    "processor_config.json",
    "tokenizer_config.json",
)

# Names that tell nothing of a model. They are on disk while a pipeline is made.
_CONVENTIONAL: Final = re.compile(
    r"(?:(?:text_encoder(?:_[23])?|transformer|unet|vae_encoder|vae_decoder|scheduler"
    r"|tokenizer(?:_[23])?|feature_extractor|image_encoder)/)?"
    r"(?:openvino_[a-z_]+\.(?:xml|bin)|(?:config|generation_config|model_index"
    r"|preprocessor_config|processor_config|scheduler_config|special_tokens_map"
    r"|tokenizer|tokenizer_config|added_tokens|vocab|chat_template)\.(?:json|jinja)"
    r"|merges\.txt)"
)

_Pipeline = TypeVar("_Pipeline")


def llm_pipeline(
    model: OpenModel,
    device: str,
    directory: str = "",
    *,
    generation_config: "openvino_genai.GenerationConfig | None" = None,
    **properties: Any,  # noqa: ANN401 - as openvino_genai has it
) -> "openvino_genai.LLMPipeline":
    """Make an LLM pipeline, as `openvino_genai.LLMPipeline` would by its path.

    Args:
        model: open; it may be closed when this returns.
        device: such as `CPU`.
        directory: in the model; empty if the model is it.
        generation_config: in place of the directory's generation_config.json.
        properties: of the pipeline. A cache that is wanted is left out, with a warning.

    Raises:
        NotFoundError, DamagedError, CipherdirError: see `OpenModel.read_model`.
        LoadError: openvino_genai is not installed, or see `open_model`.
        RuntimeError: openvino_genai's own.
    """
    genai = _import()
    files = _Files(model.files_for_loading(), directory)
    config = generation_config or files.generation_config()
    settings = _settings(properties)
    made = tokenizer(model, directory)
    return genai.LLMPipeline(*files.model(_MODEL), made, device, config, **settings)


def tokenizer(model: OpenModel, directory: str = "") -> "openvino_genai.Tokenizer":
    """Make a tokenizer, as `openvino_genai.Tokenizer` would by its path.

    Special tokens are those that the tokenizer's .xml names, as converters write them;
    the chat template is the directory's.

    Args:
        model: open; it may be closed when this returns.
        directory: in the model; empty if the model is it.

    Raises:
        see `llm_pipeline`.
    """
    genai = _import()
    files = _Files(model.files_for_loading(), directory)
    parts = (*files.model(_TOKENIZER), *files.model(_DETOKENIZER))
    made = genai.Tokenizer(*parts, **without_cache({}))
    template = files.chat_template()
    if template:
        made.set_chat_template(template)
    return made


def pipeline(
    model: OpenModel,
    kind: "Callable[..., _Pipeline]",
    device: str,
    directory: str = "",
    **properties: Any,  # noqa: ANN401 - as openvino_genai has it
) -> _Pipeline:
    """Make another pipeline, as `kind(path, device, **properties)` would.

    Args:
        model: open; it may be closed when this returns.
        kind: such as `openvino_genai.TextEmbeddingPipeline`.
        device: such as `CPU`.
        directory: in the model; empty if the model is it.
        properties: as for `llm_pipeline`.

    Raises:
        LoadError: the directory has a file under a name that is not the usual one, or
            none that is; also as `llm_pipeline`, and so are the others.
    """
    files = _Files(model.files_for_loading(), directory)
    settings = _settings(properties)
    with ExitStack() as stack:
        return kind(stack.enter_context(files.linked(stack)), device, **settings)


class _Files:
    """The files of one directory of the model, by their names in it."""

    def __init__(self, source: Source, directory: str) -> None:
        self._source = source
        self._prefix = f"{directory.strip('/')}/" if directory.strip("/.") else ""

    def model(self, name: str) -> "tuple[str, openvino.Tensor]":
        """Return topology and weights of an IR."""
        topology = read_tensor(self._source, f"{self._prefix}{name}.xml")
        weights = read_tensor(self._source, f"{self._prefix}{name}.bin")
        return bytes(topology.data).decode(), weights

    def generation_config(self) -> "openvino_genai.GenerationConfig | None":
        """Return the directory's, read from memory; None if it has none."""
        if self._prefix + _GENERATION not in self._source.files:
            return None
        with self._memory_file(_GENERATION) as file:
            return _import().GenerationConfig(file.path)

    def chat_template(self) -> str:
        """Return the directory's, in the order that openvino_genai has; or nothing."""
        if self._prefix + _TEMPLATE in self._source.files:
            return self._text(_TEMPLATE)
        for name in _WITH_TEMPLATE:
            if self._prefix + name in self._source.files:
                found = _template_in(self._text(name))
                if found:
                    return found
        return ""

    def linked(self, stack: ExitStack) -> Any:  # noqa: ANN401 - see `linked`
        """Give all of them in a directory of links; see `memory_files.linked`."""
        names = [
            path.removeprefix(self._prefix)
            for path in self._source.files
            if path.startswith(self._prefix)
        ]
        models = [name for name in names if name.endswith(".xml")]
        other = next((n for n in models if not _CONVENTIONAL.fullmatch(n)), None)
        if other is not None or not models:
            what = f"{quoted(other)} is" if other else "there is"
            raise LoadError(
                f"{what} no model of openvino_genai by its name", hint=MOUNT_HINT
            )
        return linked(
            {
                name: stack.enter_context(self._memory_file(name))
                for name in names
                if _CONVENTIONAL.fullmatch(name)
            }
        )

    def _text(self, name: str) -> str:
        tensor = read_tensor(self._source, self._prefix + name)
        try:
            return bytes(tensor.data).decode()
        except UnicodeDecodeError:
            raise LoadError(f"{quoted(name)} is not a text file") from None

    def _memory_file(self, name: str) -> MemoryFile:
        path = self._prefix + name
        size = self._source.files[path]
        return MemoryFile(size, lambda memory: self._source.read_into(path, memory))


def _template_in(text: str) -> str:
    """Return the chat template of a JSON file; one of several is named `default`."""
    try:
        content = json.loads(text)
    except ValueError:
        return ""
    found = content.get("chat_template") if isinstance(content, dict) else None
    if isinstance(found, list):
        named = {
            item.get("name"): item.get("template")
            for item in found
            if isinstance(item, dict)
        }
        found = named.get("default")
    return found if isinstance(found, str) else ""


def _settings(properties: dict[str, Any]) -> dict[str, Any]:
    if wants_cache(properties):
        warnings.warn(
            "openvino_genai would write compiled models to disk in clear: its cache "
            "is off for a sealed model",
            UserWarning,
            stacklevel=3,
        )
    return without_cache(properties)


def _import() -> Any:  # noqa: ANN401 - a module
    try:
        import openvino_genai  # noqa: PLC0415 - takes long, and may be missing
    except ImportError:
        raise LoadError(
            "openvino_genai is not installed", hint="pip install openvino-genai"
        ) from None
    return openvino_genai
