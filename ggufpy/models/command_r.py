"""Command R: attention and feed-forward side by side, both of one layer norm without bias; logits are scaled.

The larger ones have norms of queries and keys with weights of each head's own. Facts: src/models/command-r.cpp and
conversion/command_r.py of llama.cpp.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ggufpy.format.values import Typed

from .base import Inventory, Keys
from .checkpoint import SIZES, Checkpoint, Derived, Field, HfConfig, Item, Present, Rule
from .llama import read_config, read_rope
from .op import Op
from .ops import Rope
from .parts import LAYER_EPS, Ends, Layer, model
from .plan import Plan
from .rules import PLAIN_ROPE, activation, attention_rules, end_rules, gated_rules, norm_rules, optional_head_norms
from .source import TensorTable

NAME = "command-r"


def read_ends(keys: Keys) -> Ends:
    """Layer norms, and the factor of logits."""
    return Ends(kind="layer", logits=keys.number("logit_scale", 0.0, or_zero=True) or 1.0)


def side_by_side(at: Layer, rope: Rope | None, window: int = 0) -> Iterator[Op]:
    """A layer whose attention and feed-forward part read the same norm of x."""
    yield at.norm("attn_norm")
    yield from at.attention(rope, window=window)
    yield at.output()
    yield from at.feed_forward()


def plan(keys: Keys, tensors: TensorTable) -> Plan:
    """The forward pass of the file that `keys` and `tensors` describe. Raises GGUFError for what does not fit."""
    c, table = read_config(keys, eps=LAYER_EPS), Inventory(tensors)
    rope = read_rope(keys, c, table)
    return model(c, table, lambda at: side_by_side(at, rope), read_ends(keys))


def rules(config: HfConfig) -> Iterator[Rule]:
    """Tensors of both generations; the second has no norms of heads."""
    yield from end_rules()
    for i in range(config.layers):
        yield from norm_rules(i, (("attn_norm", "input_layernorm"),))
        yield from attention_rules(i)
        yield from optional_head_norms(i)
        yield from gated_rules(i)


def _unscaled(config: HfConfig) -> Mapping[str, Typed]:
    """rope.scaling.type, where no other says it: llama.cpp's files have it."""
    keys = PLAIN_ROPE.keys(config)
    return {"rope.scaling.type": Typed("string", "none"), **keys}


COHERE: tuple[Item, ...] = (
    *SIZES,
    Field("attention.layer_norm_epsilon", "layer_norm_eps", "number", default=1e-5),
    Field("logit_scale", "logit_scale", "number"),
    Derived(_unscaled, PLAIN_ROPE.config),
    Present("attention_bias", "blk.0.attn_q.bias"),
    activation("silu"),
)
# What the configuration classes of transformers have where config.json says nothing.
DEFAULTS: Mapping[str, Any] = {
    "vocab_size": 256000, "hidden_size": 8192, "intermediate_size": 22528, "num_hidden_layers": 40,
    "num_attention_heads": 64, "max_position_embeddings": 8192, "logit_scale": 0.0625, "tie_word_embeddings": True,
}  # fmt: skip
checkpoint = Checkpoint(
    classes=("CohereForCausalLM", "CohereModel"),
    model_type="cohere",
    items=(
        *COHERE,
        Field("context_length", "model_max_length|max_position_embeddings", least=1),
        Present("use_qk_norm", "blk.0.attn_q_norm.weight"),
    ),
    rules=rules,
    defaults={**DEFAULTS, "rope_theta": 500000.0},
)
