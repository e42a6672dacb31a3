"""Qwen 3: as Qwen 2, with norms of each head of queries and keys in place of biases.

Facts: src/models/qwen3.cpp and conversion/qwen.py of llama.cpp.
"""

from __future__ import annotations

from collections.abc import Iterator

from . import qwen2
from .base import Keys
from .checkpoint import RMS, SIZES, Checkpoint, HfConfig, Present, Rule
from .plan import Plan
from .qwen2 import DEFAULTS, WINDOWS
from .rules import (
    BEFORE,
    PLAIN_ROPE,
    POOLED,
    activation,
    attention_rules,
    end_rules,
    gated_rules,
    head_norm_rules,
    norm_rules,
)
from .source import TensorTable


def plan(keys: Keys, tensors: TensorTable) -> Plan:
    """The forward pass of the file that `keys` and `tensors` describe. Raises GGUFError for what does not fit."""
    return qwen2.dense(keys, tensors, norms=True)


def _rules(config: HfConfig) -> Iterator[Rule]:
    yield from end_rules()
    for i in range(config.layers):
        yield from norm_rules(i, BEFORE)
        yield from attention_rules(i)
        yield from head_norm_rules(i)
        yield from gated_rules(i)


checkpoint = Checkpoint(
    classes=("Qwen3ForCausalLM", "Qwen3Model"),
    model_type="qwen3",
    items=(
        *SIZES, RMS, PLAIN_ROPE, WINDOWS, POOLED, activation("silu"), Present("attention_bias", "blk.0.attn_q.bias"),
    ),
    rules=_rules,
    defaults={**DEFAULTS, "head_dim": 128},
)  # fmt: skip
