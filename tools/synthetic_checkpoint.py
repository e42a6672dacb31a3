"""Writes checkpoints of random weights in the shapes of well-known models, to measure conversions on.

    python tools/synthetic_checkpoint.py llama2-7b FOLDER            random BF16, as large as the model
    python tools/synthetic_checkpoint.py falcon-180b FOLDER --sparse  files with holes for weights: for --dry-run

There is no tokenizer: convert with --no-vocab. The folder must not be there yet.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ggufpy.convert.writing import header_of, write_safetensors
from ggufpy.format.rows import Rows

SHARD_BYTES = 4_000_000_000
_ONE = 0x3F80  # bits of 1 in BF16


@dataclass(frozen=True)
class Shape:
    """Sizes of a model: `kind` is llama or falcon."""

    kind: str
    width: int
    hidden: int
    layers: int
    heads: int
    shared: int
    vocabulary: int


SHAPES = {
    "tiny": Shape("llama", 256, 512, 2, 4, 2, 512),
    "llama-1b": Shape("llama", 2048, 5632, 22, 32, 4, 32000),
    "llama2-7b": Shape("llama", 4096, 11008, 32, 32, 32, 32000),
    "llama2-13b": Shape("llama", 5120, 13824, 40, 40, 40, 32000),
    "llama2-70b": Shape("llama", 8192, 28672, 80, 64, 8, 32000),
    "falcon-180b": Shape("falcon", 14848, 59392, 80, 232, 8, 65024),
}


@dataclass(frozen=True, eq=False)
class Random(Rows):
    """BF16: vectors of ones; matrices of a table of normal numbers, gone through from a place that the seed says."""

    size: tuple[int, ...]
    seed: int

    @property
    def shape(self) -> tuple[int, ...]:
        return self.size

    @property
    def type(self) -> str:
        return "BF16"

    def rows(self, start: int, stop: int) -> NDArray[np.uint8]:
        count = (stop - start) * self.columns
        at = (self.seed * 7919 + start * self.columns * 31) % len(_TABLE)
        picked = np.resize(np.roll(_TABLE, -at), count) if len(self.size) > 1 else np.full(count, _ONE, np.uint16)
        return picked.astype("<u2").view(np.uint8).reshape(stop - start, -1)


def _table() -> NDArray[np.uint16]:
    values = (np.random.default_rng(0).standard_normal(1 << 20) * 0.02).astype(np.float32)
    return (values.view(np.uint32) >> 16).astype(np.uint16)


_TABLE = _table()


def llama(s: Shape) -> tuple[dict[str, Any], Iterator[tuple[str, tuple[int, ...]]]]:
    """config.json, and every tensor's name and shape."""
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": s.width,
        "intermediate_size": s.hidden, "num_hidden_layers": s.layers, "num_attention_heads": s.heads,
        "num_key_value_heads": s.shared, "vocab_size": s.vocabulary, "max_position_embeddings": 4096,
        "rms_norm_eps": 1e-5, "tie_word_embeddings": False, "torch_dtype": "bfloat16",
    }  # fmt: skip

    def tensors() -> Iterator[tuple[str, tuple[int, ...]]]:
        small = s.width // s.heads * s.shared
        yield "model.embed_tokens.weight", (s.vocabulary, s.width)
        for i in range(s.layers):
            at = f"model.layers.{i}."
            yield at + "input_layernorm.weight", (s.width,)
            yield at + "post_attention_layernorm.weight", (s.width,)
            for name, rows in (("q", s.width), ("k", small), ("v", small), ("o", s.width)):
                yield f"{at}self_attn.{name}_proj.weight", (rows, s.width)
            yield f"{at}mlp.gate_proj.weight", (s.hidden, s.width)
            yield f"{at}mlp.up_proj.weight", (s.hidden, s.width)
            yield f"{at}mlp.down_proj.weight", (s.width, s.hidden)
        yield "model.norm.weight", (s.width,)
        yield "lm_head.weight", (s.vocabulary, s.width)

    return config, tensors()


def falcon(s: Shape) -> tuple[dict[str, Any], Iterator[tuple[str, tuple[int, ...]]]]:
    """config.json, and every tensor's name and shape, of the 40B's and 180B's layers."""
    config = {
        "architectures": ["FalconForCausalLM"], "model_type": "falcon", "hidden_size": s.width,
        "num_hidden_layers": s.layers, "num_attention_heads": s.heads, "num_kv_heads": s.shared,
        "new_decoder_architecture": True, "bias": False, "parallel_attn": True, "alibi": False,
        "vocab_size": s.vocabulary, "layer_norm_epsilon": 1e-5, "torch_dtype": "bfloat16",
        "max_position_embeddings": 2048, "tie_word_embeddings": False,
    }  # fmt: skip

    def tensors() -> Iterator[tuple[str, tuple[int, ...]]]:
        head = s.width // s.heads
        yield "transformer.word_embeddings.weight", (s.vocabulary, s.width)
        for i in range(s.layers):
            at = f"transformer.h.{i}."
            for name in ("ln_attn", "ln_mlp"):
                yield f"{at}{name}.weight", (s.width,)
                yield f"{at}{name}.bias", (s.width,)
            yield f"{at}self_attention.query_key_value.weight", ((s.heads + 2 * s.shared) * head, s.width)
            yield f"{at}self_attention.dense.weight", (s.width, s.width)
            yield f"{at}mlp.dense_h_to_4h.weight", (s.hidden, s.width)
            yield f"{at}mlp.dense_4h_to_h.weight", (s.width, s.hidden)
        yield "transformer.ln_f.weight", (s.width,)
        yield "transformer.ln_f.bias", (s.width,)
        yield "lm_head.weight", (s.vocabulary, s.width)

    return config, tensors()


KINDS = {"llama": llama, "falcon": falcon}


def write_checkpoint(folder: Path, shape: Shape, sparse: bool = False) -> int:
    """Writes a checkpoint, in shards where it is large; returns the bytes of its weights."""
    config, names = KINDS[shape.kind](shape)
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config, indent=1))
    shards: list[dict[str, Rows]] = [{}]
    size = total = 0
    for seed, (name, dims) in enumerate(names):
        rows = Random(dims, seed)
        if size and size + rows.nbytes > SHARD_BYTES:
            shards.append({})
            size = 0
        shards[-1][name] = rows
        size, total = size + rows.nbytes, total + rows.nbytes
    where = {}
    for i, shard in enumerate(shards):
        file = folder / f"model-{i + 1:05d}-of-{len(shards):05d}.safetensors"
        if sparse:
            head = header_of(shard)
            with open(file, "wb") as out:
                out.write(head)
                out.truncate(len(head) + sum(rows.nbytes for rows in shard.values()))
        else:
            write_safetensors(file, shard)
        where |= dict.fromkeys(shard, file.name)
    index = {"metadata": {"total_size": total}, "weight_map": where}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return total


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shape", choices=SHAPES)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--sparse", action="store_true", help="holes instead of weights")
    args = parser.parse_args()
    print(f"{write_checkpoint(args.folder, SHAPES[args.shape], args.sparse):,} bytes")


if __name__ == "__main__":
    main()
