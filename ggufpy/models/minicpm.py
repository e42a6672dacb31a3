"""MiniCPM 1 and 2, and 4: llama's layers with factors of embeddings, of what layers add, and of logits; LongRoPE.

What logits are divided by is hidden_size / dim_model_base; files without factors have those of the first models. Facts:
src/models/minicpm.cpp, granite.cpp (whose graph it shares) and conversion/minicpm.py of llama.cpp.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ggufpy.format.values import Typed

from .base import Inventory, Keys
from .changes import PairHalves
from .checkpoint import RMS, SIZES, Checkpoint, Derived, HfConfig, Rule, Written, f32, shortest, u32
from .llama import read_config, read_long_rope
from .longrope import LONG_ROPE, factor_rules, is_long
from .op import Op
from .parts import Ends, Layer, model
from .plan import Plan
from .rules import BEFORE, PLAIN_ROPE, activation, attention_rules, end_rules, gated_rules, norm_rules
from .source import TensorTable

EMBEDDING, DEPTH, BASE = 12.0, 1.4, 256.0  # scale_emb, scale_depth and dim_model_base of the first models


def plan(keys: Keys, tensors: TensorTable) -> Plan:
    """The forward pass of the file that `keys` and `tensors` describe. Raises GGUFError for what does not fit."""
    c, table = read_config(keys), Inventory(tensors)
    rope = read_long_rope(keys, c, table)
    added = keys.number("residual_scale", DEPTH / c.layers**0.5)
    ends = Ends(keys.number("embedding_scale", EMBEDDING), 1.0 / keys.number("logit_scale", BASE / c.width))

    def layer(at: Layer) -> Iterator[Op]:
        yield at.norm("attn_norm")
        yield from at.attention(rope)
        yield at.output("out", add=False)
        yield from at.added(scale=added)
        yield at.norm("ffn_norm")
        yield from at.feed_forward(y="out", add=False)
        yield from at.added(scale=added)

    return model(c, table, layer, ends)


def _rules(config: HfConfig) -> Iterator[Rule]:
    yield from end_rules()
    yield from factor_rules(config)
    for i in range(config.layers):
        yield from norm_rules(i, BEFORE)
        yield from attention_rules(i, PairHalves(config.heads), PairHalves(config.shared))
        yield from gated_rules(i)


def _keys(config: HfConfig) -> Mapping[str, Typed]:
    long = is_long(config)
    keys = {
        **(LONG_ROPE if long else PLAIN_ROPE).keys(config),
        "rope.dimension_count": u32(config.head_length),
        "embedding_scale": f32(config.number("scale_emb", 1.0)),
        "residual_scale": f32(config.number("scale_depth", config.layers**0.5) / config.layers**0.5),
        "logit_scale": f32(config.width / config.number("dim_model_base", config.width)),
    }
    return {**keys, "rope.scaling.type": Typed("string", "longrope")} if long else keys


def _config(file: Written) -> Mapping[str, Any]:
    layers, width = file.keys["block_count"], file.keys["embedding_length"]
    long = "rope_factors_long.weight" in file.tensors
    depth = file.keys.get("residual_scale", DEPTH / layers**0.5) * layers**0.5
    return {
        **(LONG_ROPE if long else PLAIN_ROPE).config(file),
        "scale_emb": shortest(file.keys.get("embedding_scale", EMBEDDING)),
        "scale_depth": round(depth, 6),
        "dim_model_base": round(width / file.keys.get("logit_scale", BASE / width)),
    }


checkpoint = Checkpoint(
    classes=("MiniCPMForCausalLM",),
    model_type="minicpm",
    items=(*SIZES, RMS, Derived(_keys, _config), activation("silu")),
    rules=_rules,
)
