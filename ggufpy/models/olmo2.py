"""OLMo 2 and 3: norms behind attention and feed-forward and none before them, and of whole rows of queries and keys.

OLMo 3 has windows on three layers of four, whose positions are not scaled. Facts: src/models/olmo2.cpp and
conversion/olmo.py of llama.cpp.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from ggufpy.format.values import Typed

from .base import Inventory, Keys
from .checkpoint import RMS, SIZES, Checkpoint, Derived, HfConfig, Present, Rule, Written, f32
from .llama import read_config
from .op import Op
from .parts import Layer, model
from .plan import Plan
from .qwen2 import read_halves
from .rules import (
    NEAR_BASE,
    PATTERN,
    PLAIN_ROPE,
    Windows,
    activation,
    attention_rules,
    by_period,
    end_rules,
    gated_rules,
    head_norm_rules,
    near_base,
    norm_rules,
)
from .source import TensorTable

PERIOD = 4
BASE = 500000.0  # of positions of OLMo 3, where config.json does not say
NORMS = (("post_attention_norm", "post_attention_layernorm"), ("post_ffw_norm", "post_feedforward_layernorm"))


def plan(keys: Keys, tensors: TensorTable) -> Plan:
    """The forward pass of the file that `keys` and `tensors` describe. Raises GGUFError for what does not fit."""
    c, table = read_config(keys), Inventory(tensors)
    everywhere = read_halves(keys, c, table)
    within = replace(everywhere, scaling="none", attention_factor=1.0)
    near = keys.flags(PATTERN, c.layers, PERIOD) if c.window else [False] * c.layers

    def layer(at: Layer) -> Iterator[Op]:
        h = c.heads_of(at.i)
        yield from at.qkv("x")
        yield at.norm("attn_q_norm", "q", "q", h.queries * h.key_length)
        yield at.norm("attn_k_norm", "k", "k", h.shared * h.key_length)
        yield from at.rotate(within if near[at.i] else everywhere)
        yield from at.attend(c.window if near[at.i] else 0)
        yield at.output("out", add=False)
        yield from at.added("post_attention_norm")
        yield from at.gated(c.hiddens[at.i], "x")
        yield at.product("ffn", "ffn_down", "out", (c.width, c.hiddens[at.i]))
        yield from at.added("post_ffw_norm")

    return model(c, table, layer)


def _rules(config: HfConfig) -> Iterator[Rule]:
    yield from end_rules()
    for i in range(config.layers):
        yield from norm_rules(i, NORMS)
        yield from attention_rules(i)
        yield from head_norm_rules(i)
        yield from gated_rules(i)


def _near(config: HfConfig) -> list[bool]:
    """OLMo 2 has no windows."""
    return by_period(PERIOD)(config) if "sliding_window" in config else [False] * config.layers


def _class(file: Written) -> Mapping[str, Any]:
    """OLMo 3 where there is a window; transformers wants its base for both types of layers."""
    if not file.keys.get("attention.sliding_window"):
        return {}
    said = PLAIN_ROPE.config(file)
    base = {"rope_theta": said["rope_theta"]}
    by_type = {
        "full_attention": {"rope_type": "default", **said.get("rope_scaling", {}), **base},
        "sliding_attention": {"rope_type": "default", **base},
    }
    return {"architectures": ["Olmo3ForCausalLM"], "model_type": "olmo3", "rope_parameters": by_type}


def _near_base(config: HfConfig) -> Mapping[str, Typed]:
    """The base of layers with a window, where there are such; older files have one for all."""
    if "sliding_window" not in config:
        return {}
    return near_base(config) or {NEAR_BASE: f32(config.rope().number("rope_theta", BASE))}


checkpoint = Checkpoint(
    classes=("Olmo2ForCausalLM", "Olmo3ForCausalLM"),
    model_type="olmo2",
    items=(
        *SIZES, RMS, PLAIN_ROPE, Windows(_near, PERIOD, spelled=True), Derived(_near_base, _class), activation("silu"),
        Present("attention_bias", "blk.0.attn_q.bias"),
    ),
    rules=_rules,
    defaults={"max_position_embeddings": 2048, "rms_norm_eps": 1e-5},
    kind_defaults={"olmo3": {"rope_theta": BASE, "sliding_window": 4096}},
)  # fmt: skip
