"""SmolLM 3: llama's layers, of which every fourth does not turn queries and keys by their positions.

Facts: src/models/smollm3.cpp and conversion/llama.py of llama.cpp. Files say which layers turn only where it is not so.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ggufpy.errors import GGUFError
from ggufpy.format.values import Typed
from ggufpy.support import checks

from .base import Inventory, Keys
from .checkpoint import RMS, ROTATED, SIZES, VOCABULARY, Checkpoint, Derived, HfConfig, Present, Written
from .llama import read_config, read_rope, rules
from .op import Op
from .parts import Layer, model
from .plan import Plan
from .qwen2 import read_near
from .rules import PLAIN_ROPE, Windows, activation
from .source import TensorTable

PERIOD = 4
TURNED = "attention.rope_pattern"


def plan(keys: Keys, tensors: TensorTable) -> Plan:
    """The forward pass of the file that `keys` and `tensors` describe. Raises GGUFError for what does not fit."""
    c, table = read_config(keys), Inventory(tensors)
    rope, near = read_rope(keys, c, table), read_near(keys, c)
    turned = keys.flags(TURNED, c.layers, PERIOD)

    def layer(at: Layer) -> Iterator[Op]:
        yield at.norm("attn_norm")
        yield from at.attention(rope if turned[at.i] else None, window=c.window if near[at.i] else 0)
        yield at.output()
        yield at.norm("ffn_norm")
        yield from at.feed_forward()

    return model(c, table, layer)


def _usual(layers: int, period: int = PERIOD) -> list[bool]:
    return [(i + 1) % period != 0 for i in range(layers)]


def _turned(config: HfConfig) -> list[bool]:
    """no_rope_layers, which has 1 for layers that turn, or all but every no_rope_layer_interval-th."""
    if "no_rope_layers" not in config:
        return _usual(config.layers, config.count("no_rope_layer_interval", PERIOD))
    said = config.items("no_rope_layers")
    if len(said) < config.layers or not all(flag in (0, 1) for flag in said):
        raise GGUFError(f"config.json: no_rope_layers is {checks.shown(said)}; it must have 0 or 1 for each of "
                        f"{config.layers} layers")  # fmt: skip
    return [bool(flag) for flag in said[: config.layers]]


def _keys(config: HfConfig) -> Mapping[str, Typed]:
    turned = _turned(config)
    return {} if turned == _usual(config.layers) else {TURNED: Typed("array[bool]", turned)}


def _config(file: Written) -> Mapping[str, Any]:
    turned = file.keys.get(TURNED, _usual(int(file.keys["block_count"])))
    return {"no_rope_layers": [int(flag) for flag in turned]}


def _windows(config: HfConfig) -> list[bool]:
    """Layers that do not turn have the window, where use_sliding_window says that there is one."""
    return [config.flag("use_sliding_window") and not flag for flag in _turned(config)]


checkpoint = Checkpoint(
    classes=("SmolLM3ForCausalLM",),
    model_type="smollm3",
    items=(
        *SIZES, RMS, VOCABULARY, PLAIN_ROPE, ROTATED, Windows(_windows, said={"use_sliding_window": True}),
        Derived(_keys, _config), activation("silu"), Present("attention_bias", "blk.0.attn_q.bias"),
        Present("mlp_bias", "blk.0.ffn_up.bias"),
    ),
    rules=rules,
    defaults={
        "rope_theta": 2e6, "tie_word_embeddings": True, "max_position_embeddings": 32768, "rms_norm_eps": 1e-6,
    },
)  # fmt: skip
