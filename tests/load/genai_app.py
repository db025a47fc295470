"""An app that generates text, and embeds it: by path as anyone does, or through ovfuse.

    python -m tests.load.genai_app path|ovfuse DIRECTORY [JSON]

Prints a line of JSON. JSON are properties of the pipelines. All that can be dropped is,
before anything is computed.
"""

from __future__ import annotations

import gc
import json
import sys
import warnings
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from tests.support.models import _import_openvino

PROMPT = "the model weights"
LLM, EMBEDDING = "llm", "embedding"


def main() -> None:
    """Make the pipelines, and use them."""
    _import_openvino()
    from ovfuse.errors import OvfuseError

    door, directory, *rest = sys.argv[1:]
    properties = json.loads(rest[0]) if rest else {}
    make = by_path if door == "path" else through_ovfuse
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            llm, tokenizer, embedding = make(directory, properties)
    except OvfuseError as error:
        sys.stdout.write(json.dumps({"error": type(error).__name__}) + "\n")
        return
    gc.collect()
    churn = [np.full(size, 0xA5, np.uint8) for size in (200, 70_000) for _ in range(50)]
    said = use(llm, tokenizer, embedding)
    del churn
    said["warned"] = [str(w.message) for w in caught if w.category is UserWarning]
    sys.stdout.write(json.dumps(said) + "\n")


def by_path(directory: str, properties: dict[str, Any]) -> tuple[Any, Any, Any]:
    """As the documentation of openvino_genai has it."""
    import openvino_genai as genai

    llm = Path(directory, LLM)
    return (
        genai.LLMPipeline(llm, "CPU", **properties),
        genai.Tokenizer(llm),
        genai.TextEmbeddingPipeline(Path(directory, EMBEDDING), "CPU"),
    )


def through_ovfuse(directory: str, properties: dict[str, Any]) -> tuple[Any, Any, Any]:
    """The same without a path; the model is closed at the end."""
    import openvino_genai as genai

    import ovfuse
    from ovfuse.load.genai import llm_pipeline, pipeline, tokenizer

    with ovfuse.open_model(directory) as model:
        return (
            llm_pipeline(model, "CPU", LLM, **properties),
            tokenizer(model, LLM),
            pipeline(model, genai.TextEmbeddingPipeline, "CPU", EMBEDDING),
        )


def use(llm: Any, tokenizer: Any, embedding: Any) -> dict[str, Any]:
    """Return what comes of each."""
    config = llm.get_generation_config()
    said = {"limit": config.max_new_tokens}
    config.ignore_eos = True
    said["text"] = llm.generate(PROMPT, config)
    messages = [{"role": "user", "content": PROMPT}]
    said["chat"] = tokenizer.apply_chat_template(messages, add_generation_prompt=True)
    tokens = tokenizer.encode(PROMPT).input_ids.data
    said["tokens"] = tokens.tolist()
    said["decoded"] = tokenizer.decode(tokens[0].tolist())
    found = np.array(embedding.embed_query(PROMPT), np.float32)
    said["embedding"] = sha256(found.tobytes()).hexdigest()
    return said


if __name__ == "__main__":
    main()
