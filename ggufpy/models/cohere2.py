"""Command R7B and A (Cohere 2): as Command R, with a window on three layers of four; the fourth sees everything and
does not tell positions apart.

Facts: src/models/cohere2.cpp and conversion/command_r.py of llama.cpp.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ggufpy.format.values import Typed

from .base import Inventory, Keys
from .checkpoint import VOCABULARY, Checkpoint, Derived, HfConfig, Written, u32
from .command_r import COHERE, DEFAULTS, read_ends, rules, side_by_side
from .llama import read_config, read_rope
from .parts import LAYER_EPS, model
from .plan import Plan
from .rules import NO_WINDOW, PATTERN, Windows, by_period
from .source import TensorTable

PERIOD = 4  # of layers, the last of which sees everything


def plan(keys: Keys, tensors: TensorTable) -> Plan:
    """The forward pass of the file that `keys` and `tensors` describe. Raises GGUFError for what does not fit."""
    c, table = read_config(keys, eps=LAYER_EPS), Inventory(tensors)
    rope = read_rope(keys, c, table)
    near = keys.flags(PATTERN, c.layers, PERIOD) if c.window else [False] * c.layers
    return model(
        c,
        table,
        lambda at: side_by_side(at, rope, c.window) if near[at.i] else side_by_side(at, None),
        read_ends(keys),
    )


def _keys(config: HfConfig) -> Mapping[str, Typed]:
    part = config.number("rotary_pct", 1.0)
    return {"rope.dimension_count": u32(int(part * config.head_length))}


def _config(file: Written) -> Mapping[str, Any]:
    head = file.keys["embedding_length"] // file.keys["attention.head_count"]
    return {"rotary_pct": file.keys.get("rope.dimension_count", head) / head}


checkpoint = Checkpoint(
    classes=("Cohere2ForCausalLM", "Cohere2Model"),
    model_type="cohere2",
    items=(*COHERE, VOCABULARY, NO_WINDOW, Windows(by_period(PERIOD), PERIOD), Derived(_keys, _config)),
    rules=rules,
    defaults={**DEFAULTS, "sliding_window": 4096},
)
