"""Mistral 3 and Ministral 3, text: llama's layers, whose queries may grow with their position.

Facts: src/models/mistral3.cpp and conversion/mistral3.py of llama.cpp; `log_mul` in src/llama-context.cpp there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ggufpy.errors import GGUFError
from ggufpy.format.values import Typed

from .base import Inventory, Keys
from .checkpoint import Checkpoint, Derived, HfConfig, Written, f32, rope_config, rope_keys, shortest
from .llama import LLAMA_ITEMS, read_config, read_rope, rules
from .op import Op
from .parts import Layer, model
from .plan import Plan
from .rules import yarn_growth
from .scaling import PositionScale, ScaleByPosition
from .source import TensorTable

TEMPERATURE, LOG_MUL = "attention.temperature_scale", "rope.scaling.yarn_log_multiplier"
OWN_FACTOR = "rope.scaling.attn_factor"


def plan(keys: Keys, tensors: TensorTable) -> Plan:
    """The forward pass of the file that `keys` and `tensors` describe. Raises GGUFError for what does not fit."""
    c, table = read_config(keys), Inventory(tensors)
    rope, slope = read_rope(keys, c, table), keys.number(TEMPERATURE, 0.0, or_zero=True)
    growing = PositionScale(slope, rope.original_context)

    def layer(at: Layer) -> Iterator[Op]:
        h = c.heads_of(at.i)
        yield at.norm("attn_norm")
        yield from at.qkv()
        if slope:
            yield ScaleByPosition("q", h.queries * h.key_length, growing)
        yield from at.rotate(rope)
        yield from at.attend(c.window)
        yield at.output()
        yield at.norm("ffn_norm")
        yield from at.feed_forward()

    return model(c, table, layer)


def _keys(config: HfConfig) -> Mapping[str, Typed]:
    """Positions. transformers has the ratio of two growths, mscale by mscale_all_dim; a file has the latter, and takes
    the former to be of 1."""
    keys = dict(rope_keys(config))
    rope = config.rope()
    if config.values.get("model_type") != "ministral3":
        return keys
    if rope.text("rope_type", "default") != "yarn":
        raise GGUFError("config.json: positions of ministral3 are scaled by yarn, and rope_type is not that")
    keys[LOG_MUL] = f32(rope.number("mscale_all_dim", 0.0))
    keys[TEMPERATURE] = f32(rope.number("llama_4_scaling_beta", 0.0))
    mscale, factor = rope.number("mscale", 1.0), rope.number("factor")
    if keys[LOG_MUL].value and mscale not in (0.0, 1.0):
        keys[OWN_FACTOR] = f32(yarn_growth(factor, mscale) / yarn_growth(factor))
    return keys


def _config(file: Written) -> Mapping[str, Any]:
    """Everything of positions in rope_parameters, where transformers looks for what is ministral3's own."""
    said, keys = dict(rope_config(file)), file.keys
    if TEMPERATURE not in keys:
        return {**said, "architectures": ["MistralForCausalLM"], "model_type": "mistral"}
    scaling = dict(said.pop("rope_scaling", {}))
    factor, by = scaling.get("factor", 1.0), shortest(keys.get(LOG_MUL, 0.0))
    growth = yarn_growth(factor) * keys.get(OWN_FACTOR, 1.0)
    mscale = (growth - 1.0) / (yarn_growth(factor) - 1.0) if factor > 1 else 1.0
    return {
        "rope_parameters": {
            **scaling, "rope_theta": said.pop("rope_theta", 10000.0), "mscale_all_dim": by,
            "mscale": shortest(round(mscale, 5)), "llama_4_scaling_beta": shortest(keys[TEMPERATURE]),
        }
    }  # fmt: skip


def _dense(config: HfConfig) -> bool:
    return config.values.get("model_type") != "mistral4"


checkpoint = Checkpoint(
    classes=("Ministral3ForCausalLM", "Mistral3ForConditionalGeneration"),
    model_type="ministral3",
    items=(*LLAMA_ITEMS, Derived(_keys, _config)),
    rules=rules,
    claims=_dense,
)
