"""Qwen 2 and 2.5: llama's layers with biases of queries, keys and values, and halves of a head turned together.

Facts: src/models/qwen2.cpp and conversion/qwen.py of llama.cpp. Layers may have a window, which llama.cpp does not run.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from .base import Inventory, Keys
from .checkpoint import RMS, SIZES, Checkpoint, HfConfig, Rule
from .llama import Config, read_config, read_rope
from .op import Op
from .ops import Rope
from .parts import Layer, model
from .plan import Plan
from .rules import (
    BEFORE,
    PATTERN,
    PLAIN_ROPE,
    POOLED,
    Windows,
    activation,
    attention_rules,
    end_rules,
    gated_rules,
    norm_rules,
)
from .source import TensorTable

NO_PERIOD = 1 << 20  # a period that no model reaches: all of its layers have a window


def read_near(keys: Keys, c: Config) -> list[bool]:
    """Which layers have a window: those that the file names, or all; none where there is no window."""
    return keys.flags(PATTERN, c.layers, NO_PERIOD) if c.window else [False] * c.layers


def read_halves(keys: Keys, c: Config, table: Inventory) -> Rope:
    """Rotary positions that turn halves of a head together."""
    return replace(read_rope(keys, c, table), neox=True)


def plan(keys: Keys, tensors: TensorTable) -> Plan:
    """The forward pass of the file that `keys` and `tensors` describe. Raises GGUFError for what does not fit."""
    return dense(keys, tensors)


def dense(keys: Keys, tensors: TensorTable, norms: bool = False) -> Plan:
    """As `plan`; with `norms` of each head of queries and keys, which must be there then."""
    c, table = read_config(keys), Inventory(tensors)
    rope, near = read_halves(keys, c, table), read_near(keys, c)

    def layer(at: Layer) -> Iterator[Op]:
        if norms:
            at.must_have_head_norms()
        yield at.norm("attn_norm")
        yield from at.attention(rope, window=c.window if near[at.i] else 0)
        yield at.output()
        yield at.norm("ffn_norm")
        yield from at.feed_forward()

    return model(c, table, layer)


def late_windows(config: HfConfig) -> list[bool]:
    """Where use_sliding_window says so, the layers from max_window_layers on have a window."""
    first = config.count("max_window_layers", 28, least=0) if config.flag("use_sliding_window") else config.layers
    return [i >= first for i in range(config.layers)]


WINDOWS = Windows(late_windows, said={"use_sliding_window": True})


KORMO = (("attn_norm", "pre_attention_layernorm"), ("ffn_norm", "pre_mlp_layernorm"))  # what KORMo calls its norms


def _rules(config: HfConfig) -> Iterator[Rule]:
    yield from end_rules()
    for i in range(config.layers):
        yield from norm_rules(i, BEFORE)
        yield from norm_rules(i, KORMO)
        yield from attention_rules(i)
        yield from gated_rules(i)


# What the configuration classes of transformers have where config.json says nothing.
DEFAULTS: Mapping[str, Any] = {
    "vocab_size": 151936, "hidden_size": 4096, "intermediate_size": 22016, "num_hidden_layers": 32,
    "num_attention_heads": 32, "num_key_value_heads": 32, "max_position_embeddings": 32768, "rms_norm_eps": 1e-6,
    "sliding_window": 4096,
}  # fmt: skip

checkpoint = Checkpoint(
    classes=("Qwen2ForCausalLM", "Qwen2Model", "Qwen2AudioForConditionalGeneration", "KORMoForCausalLM",
             "DotsOCRForCausalLM"),
    model_type="qwen2",
    items=(*SIZES, RMS, PLAIN_ROPE, WINDOWS, POOLED, activation("silu")),
    rules=_rules,
    defaults=DEFAULTS,
)  # fmt: skip
