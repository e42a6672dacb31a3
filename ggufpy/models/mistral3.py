"""Mistral 3 and Ministral 3, text: llama's layers, whose queries may grow with their position.

Facts: src/models/mistral3.cpp and conversion/mistral3.py of llama.cpp; `log_mul` in src/llama-context.cpp there.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from ggufpy.errors import GGUFError
from ggufpy.format.values import Typed

from .base import Inventory, Keys
from .checkpoint import Checkpoint, Derived, HfConfig, Written, f32, rope_config, rope_keys, shortest
from .llama import KIND_DEFAULTS, LLAMA_ITEMS, read_config, read_rope, rules
from .op import Op
from .parts import Layer, model
from .plan import Plan
from .rules import BANDED_ROPE, yarn_growth
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
    """Positions. transformers has the ratio of two growths, mscale by mscale_all_dim, or attention_factor in its place;
    a file has mscale_all_dim, and takes mscale to be 1."""
    if config.values.get("model_type") != "ministral3":
        return BANDED_ROPE.keys(config)
    keys, rope = dict(rope_keys(config)), config.rope()
    if rope.text("rope_type", "default") != "yarn":
        raise GGUFError("config.json: positions of ministral3 are scaled by yarn, and rope_type is not that")
    factor, by, mscale = rope.number("factor"), rope.number("mscale_all_dim", 0.0), rope.number("mscale", 0.0)
    keys[LOG_MUL] = f32(by)
    keys[TEMPERATURE] = f32(rope.number("llama_4_scaling_beta", 0.0))
    usual = yarn_growth(factor) / yarn_growth(factor, by)
    both = yarn_growth(factor, mscale) / yarn_growth(factor, by) if mscale and by else yarn_growth(factor)
    wanted = rope.number("attention_factor|attn_factor", both)
    if not math.isclose(wanted, usual, rel_tol=1e-6):
        keys[OWN_FACTOR] = f32(wanted / usual)
    return keys


def _config(file: Written) -> Mapping[str, Any]:
    """Everything of positions in rope_parameters, where transformers looks for what is ministral3's own."""
    said, keys = dict(rope_config(file)), file.keys
    if TEMPERATURE not in keys:
        return {**BANDED_ROPE.config(file), "architectures": ["MistralForCausalLM"], "model_type": "mistral"}
    scaling = dict(said.pop("rope_scaling", {}))
    factor, by = scaling.get("factor", 1.0), shortest(keys.get(LOG_MUL, 0.0))
    growth = yarn_growth(factor) * keys.get(OWN_FACTOR, 1.0)
    mscale = shortest(round((growth - 1.0) / (yarn_growth(factor) - 1.0), 5)) if factor > 1 else 1.0
    if not (by and mscale) and OWN_FACTOR in keys:  # transformers looks at the two scales together alone
        scaling["attention_factor"] = shortest(growth / yarn_growth(factor, by))
    return {
        "rope_parameters": {
            **scaling, "rope_theta": said["rope_theta"], "mscale_all_dim": by,
            "mscale": mscale, "llama_4_scaling_beta": shortest(keys[TEMPERATURE]),
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
    kind_defaults={
        "mistral": KIND_DEFAULTS["mistral"],
        "ministral3": {
            "vocab_size": 131072, "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 34,
            "num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128, "max_position_embeddings": 262144,
            "rms_norm_eps": 1e-5,
            "rope_scaling": {
                "rope_type": "yarn", "rope_theta": 1e6, "factor": 16.0, "original_max_position_embeddings": 16384,
                "beta_fast": 32.0, "beta_slow": 1.0, "mscale": 1.0, "mscale_all_dim": 1.0, "llama_4_scaling_beta": 0.1,
            },
        },
    },
)  # fmt: skip
