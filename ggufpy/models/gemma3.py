"""Gemma 3, text: as Gemma 2, with norms of each head in place of caps, and most layers with a window.

Five layers of six see the latest positions only, and turn by a base of their own. Facts: src/models/gemma3.cpp,
src/llama-model.cpp and conversion/gemma.py of llama.cpp (periods, defaults, the scale of the 27B model).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ggufpy.errors import GGUFError
from ggufpy.format.values import Typed

from . import gemma2
from .base import Inventory, Keys
from .checkpoint import RMS, SIZES, Checkpoint, Derived, Field, HfConfig, Rule, Written, f32, shortest
from .gemma import DEFAULTS, FROM_ONE, GELU, LM_HEAD
from .gemma2 import FINAL_CAP, QueryScale, Sight, layer_between_norms, read_scale
from .llama import Config, read_config
from .op import Op
from .ops import Rope
from .parts import Ends, Layer, model
from .plan import Plan
from .qwen2 import read_halves
from .rules import NEAR_BASE, PATTERN, PLAIN_ROPE, Windows, activation, by_period, head_norm_rules, near_base
from .source import TensorTable

PERIOD = 6  # of layers, the last of which sees everything
LAYERS_OF_27B = 62


def sights(keys: Keys, c: Config, table: Inventory, causal: bool = True) -> list[Sight]:
    """How each layer attends."""
    everywhere, scale = read_halves(keys, c, table), read_scale(keys, c, LAYERS_OF_27B)
    within = Rope(everywhere.dimensions, keys.number(NEAR_BASE, 10000.0, (1.5, 1e12)), neox=True)
    near = keys.flags(PATTERN, c.layers, PERIOD) if c.window else [False] * c.layers
    return [Sight(within if here else everywhere, c.window if here else 0, scale, causal=causal) for here in near]


def plan(keys: Keys, tensors: TensorTable) -> Plan:
    """The forward pass of the file that `keys` and `tensors` describe. Raises GGUFError for what does not fit."""
    c, table = read_config(keys), Inventory(tensors)
    cap = keys.number(FINAL_CAP, 0.0, or_zero=True)
    sight = sights(keys, c, table)

    def layer(at: Layer) -> Iterator[Op]:
        at.must_have_head_norms()
        yield from layer_between_norms(at, sight[at.i])

    return model(c, table, layer, Ends(c.width**0.5, softcap=cap))


def rules(config: HfConfig) -> Iterator[Rule]:
    yield from gemma2.rules(config)
    for i in range(config.layers):
        yield from head_norm_rules(i, FROM_ONE)


def _near_base(config: HfConfig) -> Mapping[str, Typed]:
    """The base of layers with a window. Raises GGUFError for what files cannot say: their scaling, capped scores."""
    if config.get("attn_logit_softcapping") is not None:
        raise GGUFError("config.json: attn_logit_softcapping is not null, and Gemma 3 has no cap of scores")
    return near_base(config) or {NEAR_BASE: f32(config.number("rope_local_base_freq", 10000.0))}


def _near_base_config(file: Written) -> Mapping[str, Any]:
    return {"rope_local_base_freq": shortest(file.keys.get(NEAR_BASE, 10000.0))}


def _sees_what_was(config: HfConfig) -> bool:
    return not config.flag("use_bidirectional_attention")


ITEMS = (
    *SIZES, RMS, PLAIN_ROPE, Windows(by_period(PERIOD), PERIOD), QueryScale(LAYERS_OF_27B),
    Derived(_near_base, _near_base_config), activation(*GELU),
)  # fmt: skip
TEXT_DEFAULTS: Mapping[str, Any] = {
    **DEFAULTS, "max_position_embeddings": 131072, "rope_theta": 1e6, "num_attention_heads": 8,
    "num_key_value_heads": 4, "hidden_size": 2304, "intermediate_size": 9216, "num_hidden_layers": 26,
    "sliding_window": 4096, "query_pre_attn_scalar": 256,
}  # fmt: skip

checkpoint = Checkpoint(
    classes=("Gemma3ForCausalLM", "Gemma3ForConditionalGeneration", "Gemma3TextModel"),
    model_type="gemma3_text",
    items=(*ITEMS, Field(FINAL_CAP, FINAL_CAP, "number", default=None)),
    rules=rules,
    ignored=(*Checkpoint.ignored, LM_HEAD),
    claims=_sees_what_was,
    defaults=TEXT_DEFAULTS,
)
