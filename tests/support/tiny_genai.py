"""A tiny language model and a tiny text embedding as openvino_genai wants them.

Made from seeds, by a few operations and the tokenizers' own: nothing is downloaded, and
no transformers are needed. What they say means nothing, but is always the same.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from tests.support.models import _import_openvino

__all__ = ["make_embedding", "make_llm"]

HEADS, HEAD_SIZE, LAYERS, POSITIONS = 2, 16, 2, 512
WIDTH = HEADS * HEAD_SIZE
WORDS = (" model", " the", "ing", " weight", "s ")
END = 1
TEMPLATE = "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}{% endfor %}"


def make_llm(directory: Path, seed: int = 1) -> Path:
    """Make what `openvino_genai.LLMPipeline` loads."""
    directory.mkdir(parents=True)
    tokens = _make_tokenizer(directory)
    _Builder(seed).language_model(tokens, directory / "openvino_model.xml")
    _write_configs(directory)
    generation = {"eos_token_id": END, "pad_token_id": 0, "max_new_tokens": 12}
    (directory / "generation_config.json").write_text(json.dumps(generation))
    return directory


def make_embedding(directory: Path, seed: int = 2) -> Path:
    """Make what `openvino_genai.TextEmbeddingPipeline` loads."""
    directory.mkdir(parents=True)
    tokens = _make_tokenizer(directory)
    _Builder(seed).embedding(tokens, directory / "openvino_model.xml")
    _write_configs(directory)
    return directory


def _write_configs(directory: Path) -> None:
    config = {
        "model_type": "llama",
        "eos_token_id": END,
        "max_position_embeddings": 512,
    }
    (directory / "config.json").write_text(json.dumps(config))
    (directory / "tokenizer_config.json").write_text(
        json.dumps({"chat_template": TEMPLATE})
    )


def _make_tokenizer(directory: Path) -> int:
    """Make tokenizer and detokenizer, of bytes and a few words; return the number."""
    openvino = _import_openvino()
    opset = openvino.opset13
    from openvino_tokenizers.build_tokenizer import build_rwkv_tokenizer

    pieces = [bytes([value]) for value in range(256)] + [w.encode() for w in WORDS]
    lines = [f"{i + 1} {piece!r} {len(piece)}" for i, piece in enumerate(pieces)]
    tokenizer, detokenizer = build_rwkv_tokenizer(lines)
    ids = tokenizer.outputs[0].get_node().input_value(0)
    zero = opset.constant(0, ids.get_element_type())
    mask = opset.convert(opset.greater_equal(ids, zero), openvino.Type.i64)
    tokenizer = openvino.Model(
        [opset.result(ids), opset.result(mask)], tokenizer.get_parameters(), "tokenizer"
    )
    for output, name in zip(
        tokenizer.outputs, ("input_ids", "attention_mask"), strict=True
    ):
        output.tensor.set_names({name})
    for model, name in ((tokenizer, "tokenizer"), (detokenizer, "detokenizer")):
        for key, value in (("pad", 0), ("eos", END), ("bos", END)):
            model.set_rt_info(value, f"{key}_token_id")
        openvino.save_model(model, directory / f"openvino_{name}.xml")
    return len(pieces) + 1


class _Builder:
    """Makes transformers of random weights."""

    def __init__(self, seed: int) -> None:
        self._openvino = _import_openvino()
        self._opset = self._openvino.opset13
        self._random = np.random.default_rng(seed)

    def embedding(self, tokens: int, path: Path) -> None:
        """Make a model whose hidden state is a table's rows, times a matrix."""
        openvino, op = self._openvino, self._opset
        ids, mask = (self._parameter(n, 2) for n in ("input_ids", "attention_mask"))
        rows = op.gather(self._weights(tokens, WIDTH), ids, op.constant(0))
        seen = op.unsqueeze(op.convert(mask, openvino.Type.f32), op.constant(2))
        hidden = self._times(op.multiply(rows, seen), WIDTH, WIDTH)
        self._save([hidden], ["last_hidden_state"], [], [ids, mask], path)

    def language_model(self, tokens: int, path: Path) -> None:
        """Make a decoder with a state, as optimum exports it."""
        openvino, op = self._openvino, self._opset
        names = ("input_ids", "attention_mask", "position_ids")
        ids, mask, positions = (self._parameter(name, 2) for name in names)
        beam = op.parameter([-1], openvino.Type.i32, name="beam_idx")
        beam.output(0).tensor.set_names({"beam_idx"})
        x = op.add(
            op.gather(self._weights(tokens, WIDTH), ids, op.constant(0)),
            op.gather(self._weights(POSITIONS, WIDTH), positions, op.constant(0)),
        )
        causal = self._causal_mask(mask, positions)
        sinks: list[Any] = []
        for layer in range(LAYERS):
            q = self._heads(x)
            k, v = (
                self._with_past(self._heads(x), f"{layer}.{n}", ids, beam, sinks)
                for n in ("key", "value")
            )
            found = op.scaled_dot_product_attention(q, k, v, causal)
            found = op.transpose(found, op.constant([0, 2, 1, 3]))
            found = op.reshape(found, op.constant([0, 0, WIDTH]), special_zero=True)
            x = op.add(x, self._times(found, WIDTH, WIDTH))
            wide = op.relu(self._times(x, WIDTH, 4 * WIDTH))
            x = op.add(x, self._times(wide, 4 * WIDTH, WIDTH))
        logits = self._times(x, WIDTH, tokens)
        self._save([logits], ["logits"], sinks, [ids, mask, positions, beam], path)

    def _parameter(self, name: str, rank: int) -> Any:
        node = self._opset.parameter([-1] * rank, self._openvino.Type.i64, name=name)
        node.output(0).tensor.set_names({name})
        return node

    def _weights(self, *shape: int) -> Any:
        values = self._random.standard_normal(shape, dtype=np.float32)
        return self._opset.constant(values / np.float32(np.sqrt(shape[0])))

    def _times(self, x: Any, rows: int, columns: int) -> Any:
        weights = self._weights(rows, columns)
        return self._opset.matmul(x, weights, transpose_a=False, transpose_b=False)

    def _heads(self, x: Any) -> Any:
        op = self._opset
        shape = op.constant([0, 0, HEADS, HEAD_SIZE])
        split = op.reshape(self._times(x, WIDTH, WIDTH), shape, special_zero=True)
        return op.transpose(split, op.constant([0, 2, 1, 3]))

    def _causal_mask(self, mask: Any, positions: Any) -> Any:
        openvino, op = self._openvino, self._opset
        total = op.gather(op.shape_of(mask), op.constant(1), op.constant(0))
        zero, one = (op.constant(n, openvino.Type.i64) for n in (0, 1))
        places = op.range(zero, total, one, "i64")
        earlier = op.less_equal(
            op.unsqueeze(places, op.constant([0, 1])),
            op.unsqueeze(positions, op.constant(2)),
        )
        real = op.unsqueeze(op.equal(mask, one), op.constant(1))
        seen = op.logical_and(earlier, real)
        nothing, away = (op.constant(np.float32(n)) for n in (0, -1e9))
        return op.unsqueeze(op.select(seen, nothing, away), op.constant(1))

    def _with_past(
        self, new: Any, name: str, ids: Any, beam: Any, sinks: list[Any]
    ) -> Any:
        openvino, op = self._openvino, self._opset
        info = openvino.op.util.VariableInfo()
        info.data_shape = openvino.PartialShape([-1, HEADS, -1, HEAD_SIZE])
        info.data_type = openvino.Type.f32
        info.variable_id = f"past_key_values.{name}present.{name}"
        variable = openvino.op.util.Variable(info)
        batch = op.gather(op.shape_of(ids), op.constant([0]), op.constant(0))
        rest = op.constant([HEADS, 0, HEAD_SIZE], openvino.Type.i64)
        empty = op.broadcast(op.constant(np.float32(0)), op.concat([batch, rest], 0))
        past = openvino.opset6.read_value(empty, variable)
        full = op.concat([op.gather(past, beam, op.constant(0)), new], 2)
        sinks.append(op.assign(full, variable))
        return full

    def _save(
        self,
        nodes: list[Any],
        names: list[str],
        sinks: list[Any],
        parameters: list[Any],
        path: Path,
    ) -> None:
        results = [self._opset.result(node) for node in nodes]
        model = self._openvino.Model(results, sinks, parameters, "tiny")
        for output, name in zip(model.outputs, names, strict=True):
            output.tensor.set_names({name})
        self._openvino.save_model(model, path, compress_to_fp16=False)
