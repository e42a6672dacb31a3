"""Nomic's BERT: rotary positions, a gated feed-forward part, no biases, a norm behind every part.

Facts: src/models/bert.cpp and conversion/bert.py of llama.cpp. Checkpoints come in Nomic's own names, and in those of
transformers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from ggufpy.errors import GGUFError
from ggufpy.format.values import Typed

from .base import Inventory, Keys
from .changes import Join
from .checkpoint import SIZES, Checkpoint, Derived, Field, HfConfig, Item, Rule, Written, f32, linear, one, shortest
from .encoders import POOLING, after, encoder
from .llama import read_config, read_rope
from .op import Op
from .parts import LAYER_EPS, Ends, Layer
from .plan import Plan
from .source import TensorTable

NAME = "nomic-bert"
OURS = ("embeddings.LayerNorm", "layers.{}.post_attention_layernorm", "layers.{}.post_mlp_layernorm")
THEIRS = ("emb_ln", "encoder.layers.{}.norm1", "encoder.layers.{}.norm2")


def plan(keys: Keys, tensors: TensorTable) -> Plan:
    """The forward pass of the file that `keys` and `tensors` describe. Raises GGUFError for what does not fit."""
    c, table = read_config(keys, eps=LAYER_EPS), Inventory(tensors)
    rope = replace(read_rope(keys, c, table), neox=True)

    def feed_forward(at: Layer) -> Iterator[Op]:
        yield from at.feed_forward(x="x")

    return encoder(c, table, keys, lambda at: after(at, rope, feed_forward), Ends(last_norm=False))


def body_rules(config: HfConfig) -> Iterator[Rule]:
    """All tensors but those of feed-forward parts."""
    yield one("token_embd.weight", "embeddings.word_embeddings.weight")
    yield one("token_types.weight", "embeddings.token_type_embeddings.weight", optional=True)
    for gguf, *names in zip(("token_embd_norm",), OURS[:1], THEIRS[:1], strict=True):
        yield from _norm(gguf, names)
    size = config.heads * config.head_length
    for i in range(config.layers):
        at = f"blk.{i}."
        for end in ("weight", "bias"):
            parts = tuple(f"layers.{i}.self_attn.{name}_proj.{end}" for name in "qkv")
            yield Rule((f"{at}attn_qkv.{end}",), parts, Join((size,) * 3), optional=True)
            yield one(f"{at}attn_qkv.{end}", f"encoder.layers.{i}.attn.Wqkv.{end}", optional=end == "bias")
        yield from linear(f"{at}attn_output", f"layers.{i}.self_attn.o_proj", optional=True)
        yield from linear(f"{at}attn_output", f"encoder.layers.{i}.attn.out_proj")
        for gguf, n in (("attn_output_norm", 1), ("layer_output_norm", 2)):
            yield from _norm(at + gguf, [OURS[n].format(i), THEIRS[n].format(i)])


def _norm(gguf: str, names: list[str]) -> Iterator[Rule]:
    yield from linear(gguf, names[0], optional=True)
    yield from linear(gguf, names[1])


def _rules(config: HfConfig) -> Iterator[Rule]:
    yield from body_rules(config)
    for i in range(config.layers):
        for name, theirs in (("gate", "fc12"), ("up", "fc11"), ("down", "fc2")):
            yield from linear(f"blk.{i}.ffn_{name}", f"layers.{i}.mlp.{name}_proj", optional=True)
            yield from linear(f"blk.{i}.ffn_{name}", f"encoder.layers.{i}.mlp.{theirs}")


def _keys(config: HfConfig) -> Mapping[str, Typed]:
    """Positions. Raises GGUFError for kinds that were never published as models."""
    odd = config.flag("prenorm") or config.flag("rotary_emb_interleaved") or config.get("rotary_emb_scale_base")
    if odd or config.number("rotary_emb_fraction", 1.0) != 1.0:
        raise GGUFError("config.json: norms before parts, or positions of another kind, which ggufpy does not run here")
    base = config.rope().number("rope_theta", config.number("rotary_emb_base", 1000.0))
    return {"rope.freq_base": f32(base)}


def _config(file: Written) -> Mapping[str, Any]:
    theta = shortest(file.keys.get("rope.freq_base", 10000.0))
    types = file.tensors.get("token_types.weight")
    return {
        "rope_parameters": {"rope_type": "default", "rope_theta": theta},
        "type_vocab_size": 0 if types is None else types.shape[0],
        "pad_token_id": 0,
    }


ITEMS: tuple[Item, ...] = (
    *SIZES,
    Field("attention.layer_norm_epsilon", "layer_norm_eps|layer_norm_epsilon", "number", default=1e-12),
    Derived(_keys, _config),
    POOLING,
)
IGNORED = (r"position_ids$", r"^(nomic_bert\.)?pooler\.", r"^cls\.", r"mlp\.experts\.bias$")


def _dense(config: HfConfig) -> bool:
    return not config.get("moe_every_n_layers")


checkpoint = Checkpoint(
    classes=("NomicBertModel", "NomicBertForMaskedLM"),
    model_type="nomic_bert",
    items=ITEMS,
    rules=_rules,
    anchor="|embeddings.word_embeddings.weight",
    ignored=IGNORED,
    claims=_dense,
)
