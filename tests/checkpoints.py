"""Small checkpoints for tests, written without PyTorch."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ggufpy.convert.writing import write_safetensors
from ggufpy.format.rows import Numbers, Plain, Rows

WIDTH, HIDDEN, LAYERS, HEADS, SHARED, VOCABULARY = 64, 96, 2, 4, 2, 96
CONFIG: Mapping[str, Any] = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": WIDTH, "intermediate_size": HIDDEN,
    "num_hidden_layers": LAYERS, "num_attention_heads": HEADS, "num_key_value_heads": SHARED,
    "vocab_size": VOCABULARY, "max_position_embeddings": 128, "rms_norm_eps": 1e-5, "tie_word_embeddings": False,
}  # fmt: skip


def shapes(config: Mapping[str, Any] = CONFIG) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names and shapes of a llama's tensors."""
    width, hidden, words = config["hidden_size"], config["intermediate_size"], config["vocab_size"]
    small = width // config["num_attention_heads"] * config["num_key_value_heads"]
    yield "model.embed_tokens.weight", (words, width)
    for i in range(config["num_hidden_layers"]):
        at = f"model.layers.{i}."
        for name, rows in (("q", width), ("k", small), ("v", small), ("o", width)):
            yield f"{at}self_attn.{name}_proj.weight", (rows, width)
        yield f"{at}mlp.gate_proj.weight", (hidden, width)
        yield f"{at}mlp.up_proj.weight", (hidden, width)
        yield f"{at}mlp.down_proj.weight", (width, hidden)
        yield f"{at}input_layernorm.weight", (width,)
        yield f"{at}post_attention_layernorm.weight", (width,)
    yield "model.norm.weight", (width,)
    yield "lm_head.weight", (words, width)


def weights(config: Mapping[str, Any] = CONFIG, seed: int = 0) -> dict[str, Any]:
    """Random float32 tensors."""
    rng = np.random.default_rng(seed)
    made = {}
    for name, shape in shapes(config):
        values = rng.standard_normal(shape)
        made[name] = (1 + 0.2 * values if len(shape) == 1 else values / shape[-1] ** 0.5).astype(np.float32)
    return made


def write(
    folder: Path, tensors: Mapping[str, Any], config: Mapping[str, Any] = CONFIG, dtype: str = "F32", shards: int = 1
) -> Path:
    """A checkpoint of float32 arrays, kept as `dtype`, in so many files."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(dict(config)))
    rows: dict[str, Rows] = {name: Plain(Numbers(values), dtype) for name, values in tensors.items()}
    if shards == 1:
        write_safetensors(folder / "model.safetensors", rows)
        return folder
    where = {}
    for i in range(shards):
        part = dict(list(rows.items())[i::shards])
        name = f"model-{i + 1:05d}-of-{shards:05d}.safetensors"
        write_safetensors(folder / name, part)
        where |= dict.fromkeys(part, name)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))
    return folder


def raw_safetensors(header: Any, data: bytes = b"") -> bytes:
    """A file of safetensors of whatever header is given, an object or bytes."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data
