"""Gemma 2: norms before and after attention and feed-forward, caps of scores and logits, a window on every other layer.

Facts: src/models/gemma2.cpp and conversion/gemma.py of llama.cpp (defaults of caps and window, the scale of the 27B
model).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ggufpy.format.values import Typed
from ggufpy.support.records import dataclass

from .base import Inventory, Keys
from .checkpoint import RMS, SIZES, Checkpoint, Derived, HfConfig, Item, Rule, Written, f32, shortest
from .gemma import CAUSAL, DEFAULTS, FROM_ONE, GELU, LM_HEAD, gemma_ends
from .llama import Config, read_config
from .op import Op
from .ops import Rope
from .parts import Ends, Layer, model
from .plan import Plan
from .qwen2 import read_halves
from .rules import PATTERN, PLAIN_ROPE, Windows, activation, attention_rules, by_period, gated_rules, norm_rules
from .source import TensorTable

PERIOD, WINDOW = 2, 4096
LAYERS_OF_27B = 46
ATTENTION_CAP, FINAL_CAP = "attn_logit_softcapping", "final_logit_softcapping"
CAPS = {ATTENTION_CAP: 50.0, FINAL_CAP: 30.0}
NORMS = (
    ("attn_norm", "input_layernorm"), ("post_attention_norm", "post_attention_layernorm"),
    ("ffn_norm", "pre_feedforward_layernorm"), ("post_ffw_norm", "post_feedforward_layernorm"),
)  # fmt: skip


@dataclass(frozen=True)
class Sight:
    """How a layer attends: positions, window, scale and cap of scores, and whether what follows is not seen."""

    rope: Rope
    window: int = 0
    scale: float = 0.0
    softcap: float = 0.0
    causal: bool = True


def layer_between_norms(at: Layer, sight: Sight) -> Iterator[Op]:
    """Attention and feed-forward, each with a norm before it and one behind it."""
    yield at.norm("attn_norm")
    yield from at.qkv()
    yield from at.head_norms()
    yield from at.rotate(sight.rope)
    yield from at.attend(sight.window, False, sight.scale, sight.softcap, sight.causal)
    yield at.output("out", add=False)
    yield from at.added("post_attention_norm")
    yield at.norm("ffn_norm")
    yield from at.feed_forward(y="out", add=False, kind="gelu")
    yield from at.added("post_ffw_norm")


def read_scale(keys: Keys, c: Config, layers: int) -> float:
    """What scores are multiplied by: 1 / √(width of a head), but of the largest model, which has `layers`, and of files
    that say it."""
    usual = 1.0 / (c.width // c.queries[0] if c.layers == layers else c.key_length) ** 0.5
    return keys.number("attention.scale", 0.0, or_zero=True) or usual


def plan(keys: Keys, tensors: TensorTable) -> Plan:
    """The forward pass of the file that `keys` and `tensors` describe. Raises GGUFError for what does not fit."""
    c, table = read_config(keys), Inventory(tensors)
    rope, scale = read_halves(keys, c, table), read_scale(keys, c, LAYERS_OF_27B)
    cap, final = (keys.number(name, usual, or_zero=True) for name, usual in CAPS.items())
    window = keys.count("attention.sliding_window", WINDOW, least=0)
    near = keys.flags(PATTERN, c.layers, PERIOD)

    def layer(at: Layer) -> Iterator[Op]:
        yield from layer_between_norms(at, Sight(rope, window if near[at.i] else 0, scale, cap))

    return model(c, table, layer, Ends(c.width**0.5, softcap=final))


def rules(config: HfConfig) -> Iterator[Rule]:
    """Tensors of a model whose layers are between norms."""
    yield from gemma_ends(config)
    for i in range(config.layers):
        yield from norm_rules(i, NORMS, FROM_ONE)
        yield from attention_rules(i)
        yield from gated_rules(i)


def _caps(config: HfConfig) -> Mapping[str, Typed]:
    """Both, 0 where config.json has null: the models were published with them, so that files without take them."""
    return {name: f32(0.0 if config.get(name) is None else config.number(name)) for name in CAPS}


def _caps_config(file: Written) -> Mapping[str, Any]:
    return {name: shortest(file.keys.get(name, usual)) or None for name, usual in CAPS.items()}


@dataclass(frozen=True)
class QueryScale:
    """query_pre_attn_scalar, which the file says only where it is not what `layers` and widths make it."""

    layers: int

    def _usual(self, layers: int, width: int, heads: int, length: int) -> int:
        return width // heads if layers == self.layers else length

    def keys(self, config: HfConfig) -> Mapping[str, Typed]:
        usual = self._usual(config.layers, config.width, config.heads, config.head_length)
        said = config.number("query_pre_attn_scalar", usual)
        return {} if said == usual or said <= 0 else {"attention.scale": f32(said**-0.5)}

    def config(self, file: Written) -> Mapping[str, Any]:
        keys = file.keys
        if "attention.scale" in keys:
            said = round(float(keys["attention.scale"]) ** -2, 3)
            return {"query_pre_attn_scalar": int(said) if said.is_integer() else said}
        width, heads = keys["embedding_length"], keys["attention.head_count"]
        length = keys.get("attention.key_length", width // heads)
        return {"query_pre_attn_scalar": self._usual(keys["block_count"], width, heads, length)}


CAP_ITEM: Item = Derived(_caps, _caps_config)

checkpoint = Checkpoint(
    classes=("Gemma2ForCausalLM",),
    model_type="gemma2",
    items=(
        *SIZES, RMS, PLAIN_ROPE, Windows(by_period(PERIOD), PERIOD, always=True), QueryScale(LAYERS_OF_27B), CAP_ITEM,
        activation(*GELU), CAUSAL,
    ),
    rules=rules,
    ignored=(*Checkpoint.ignored, LM_HEAD),
    defaults={**DEFAULTS, **CAPS, "sliding_window": WINDOW, "query_pre_attn_scalar": 256},
)  # fmt: skip
