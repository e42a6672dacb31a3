"""Phi 3 and 4: queries, keys and values of one matrix, gate and up of another, LongRoPE, a window on all layers.

Facts: src/models/phi3.cpp and conversion/phi.py of llama.cpp, which does not look at the window; transformers does.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from ggufpy.format.values import Typed

from .base import Inventory, Keys
from .checkpoint import RMS, ROTATED, SIZES, Checkpoint, Derived, HfConfig, Rule, Written, one, u32
from .llama import read_config, read_long_rope
from .longrope import LONG_ROPE, factor_rules
from .op import Op
from .parts import Layer, model
from .plan import Plan
from .rules import BEFORE, activation, end_rules, norm_rules
from .source import TensorTable

FUSED = (("attn_qkv", "self_attn.qkv_proj"), ("attn_output", "self_attn.o_proj"), ("ffn_up", "mlp.gate_up_proj"),
         ("ffn_down", "mlp.down_proj"))  # fmt: skip


def plan(keys: Keys, tensors: TensorTable) -> Plan:
    """The forward pass of the file that `keys` and `tensors` describe. Raises GGUFError for what does not fit."""
    c, table = read_config(keys), Inventory(tensors)
    rope = replace(read_long_rope(keys, c, table), neox=True)

    def layer(at: Layer) -> Iterator[Op]:
        yield at.norm("attn_norm")
        yield from at.attention(rope, window=c.window)
        yield at.output()
        yield at.norm("ffn_norm")
        yield from at.feed_forward()

    return model(c, table, layer)


def _rules(config: HfConfig) -> Iterator[Rule]:
    yield from end_rules()
    yield from factor_rules(config)
    for i in range(config.layers):
        yield from norm_rules(i, BEFORE)
        for name, hf in FUSED:
            yield one(f"blk.{i}.{name}.weight", f"model.layers.{i}.{hf}.weight")


def _keys(config: HfConfig) -> Mapping[str, Typed]:
    """The window, 0 for none, which is how llama.cpp tells Phi 4."""
    return {"attention.sliding_window": u32(config.count("sliding_window", 0, least=0))}


def _config(file: Written) -> Mapping[str, Any]:
    return {"sliding_window": file.keys.get("attention.sliding_window") or None}


checkpoint = Checkpoint(
    classes=("Phi3ForCausalLM", "Phi3Model", "Phi4ForCausalLMV"),
    model_type="phi3",
    items=(*SIZES, RMS, ROTATED, LONG_ROPE, Derived(_keys, _config), activation("silu")),
    rules=_rules,
    defaults={"max_position_embeddings": 4096, "original_max_position_embeddings": 4096, "rms_norm_eps": 1e-5},
)
