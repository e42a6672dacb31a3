"""ERNIE 4.5: llama's layers, biases everywhere or nowhere, neighbours of a head turned together as stored.

Facts: src/models/ernie4-5.cpp and conversion/ernie.py of llama.cpp.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from .base import Inventory, Keys
from .changes import Split
from .checkpoint import RMS, SIZES, Checkpoint, HfConfig, Item, Present, Rule
from .llama import read_config, read_rope
from .op import Op
from .parts import Layer, model
from .plan import Plan
from .rules import BEFORE, PLAIN_ROPE, activation, attention_rules, end_rules, gated_rules, norm_rules
from .source import TensorTable

ENDINGS = ("weight", "bias")


def plan(keys: Keys, tensors: TensorTable) -> Plan:
    """The forward pass of the file that `keys` and `tensors` describe. Raises GGUFError for what does not fit."""
    c, table = read_config(keys), Inventory(tensors)
    rope = read_rope(keys, c, table)

    def layer(at: Layer) -> Iterator[Op]:
        yield at.norm("attn_norm")
        yield from at.attention(rope)
        yield at.output()
        yield at.norm("ffn_norm")
        yield from at.feed_forward()

    return model(c, table, layer)


def layer_rules(i: int, config: HfConfig) -> Iterator[Rule]:
    """Norms and attention; queries, keys and values may be one matrix, as ERNIE's own tools save them."""
    q, kv = config.heads * config.head_length, config.shared * config.head_length
    yield from norm_rules(i, BEFORE)
    yield from attention_rules(i)
    names = tuple(f"blk.{i}.attn_{name}" for name in "qkv")
    yield from split(names, f"model.layers.{i}.self_attn.qkv_proj", (q, kv, kv))


def split(names: tuple[str, ...], hf: str, sizes: tuple[int, ...]) -> Iterator[Rule]:
    """Linear layers that a checkpoint has as one."""
    for ending in ENDINGS:
        gguf = tuple(f"{name}.{ending}" for name in names)
        yield Rule(gguf, (f"{hf}.{ending}",), Split(sizes), optional=ending == "bias")


def dense_rules(i: int, config: HfConfig) -> Iterator[Rule]:
    """The feed-forward part of a layer without experts."""
    yield from gated_rules(i)
    hidden = config.count("intermediate_size")
    names = (f"blk.{i}.ffn_gate", f"blk.{i}.ffn_up")
    yield from split(names, f"model.layers.{i}.mlp.up_gate_proj", (hidden, hidden))


def _rules(config: HfConfig) -> Iterator[Rule]:
    yield from end_rules()
    for i in range(config.layers):
        yield from layer_rules(i, config)
        yield from dense_rules(i, config)


ERNIE: tuple[Item, ...] = (*SIZES, RMS, PLAIN_ROPE, Present("use_bias", "blk.0.attn_q.bias"), activation("silu"))
# What the configuration classes of transformers have where config.json says nothing.
DEFAULTS: Mapping[str, Any] = {
    "max_position_embeddings": 131072, "rms_norm_eps": 1e-5, "rope_theta": 500000.0, "tie_word_embeddings": True,
}  # fmt: skip
checkpoint = Checkpoint(
    classes=("Ernie4_5ForCausalLM", "Ernie4_5_ForCausalLM", "Ernie4_5Model"),
    model_type="ernie4_5",
    items=ERNIE,
    rules=_rules,
    defaults={**DEFAULTS, "head_dim": 128},
)
