"""EXAONE 4: norms behind attention and feed-forward only, and of each head; larger models have a window on three layers
of four, and do not tell positions apart on the fourth.

Facts: src/models/exaone4.cpp and conversion/exaone.py of llama.cpp.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from .base import Inventory, Keys
from .checkpoint import RMS, SIZES, VOCABULARY, Checkpoint, HfConfig, Rule, llama3_factors, made
from .llama import read_config, read_rope
from .op import Op
from .parts import Layer, leave_out_nextn, model
from .plan import Plan
from .rules import (
    BANDED_ROPE,
    NO_WINDOW,
    PATTERN,
    Windows,
    activation,
    attention_rules,
    by_letters,
    end_rules,
    gated_rules,
    head_norm_rules,
    norm_rules,
)
from .source import TensorTable

PERIOD = 4  # of layers, the last of which sees everything, where there is a window
LAYERS_OF_32B, WINDOW_OF_32B = 64, 4096
NORMS = (("post_attention_norm", "post_attention_layernorm"), ("post_ffw_norm", "post_feedforward_layernorm"))


def plan(keys: Keys, tensors: TensorTable) -> Plan:
    """The forward pass of the file that `keys` and `tensors` describe. Raises GGUFError for what does not fit."""
    c, table = read_config(keys), Inventory(tensors)
    leave_out_nextn(keys, c, table)
    rope = replace(read_rope(keys, c, table), neox=True)
    usual = WINDOW_OF_32B if c.layers == LAYERS_OF_32B else 0
    window = keys.count("attention.sliding_window", usual, least=0)
    near = keys.flags(PATTERN, c.layers, PERIOD)

    def layer(at: Layer) -> Iterator[Op]:
        at.must_have_head_norms()
        everything = window > 0 and not near[at.i]
        yield from at.attention(None if everything else rope, "x", 0 if everything else window)
        yield at.output("out", add=False)
        yield from at.added("post_attention_norm")
        yield from at.feed_forward(x="x", y="out", add=False)
        yield from at.added("post_ffw_norm")

    return model(c, table, layer)


def _rules(config: HfConfig) -> Iterator[Rule]:
    yield from end_rules()
    yield from made("rope_freqs.weight", llama3_factors(config))
    for i in range(config.layers):
        yield from norm_rules(i, NORMS)
        yield from head_norm_rules(i)
        yield from attention_rules(i)
        yield from gated_rules(i)


checkpoint = Checkpoint(
    classes=("Exaone4ForCausalLM", "Exaone4Model", "Exaone4_5_ForConditionalGeneration"),
    model_type="exaone4",
    items=(*SIZES, RMS, BANDED_ROPE, VOCABULARY, NO_WINDOW, Windows(by_letters(PERIOD)), activation("silu")),
    rules=_rules,
    defaults={
        "vocab_size": 102400, "hidden_size": 4096, "intermediate_size": 16384, "num_hidden_layers": 32,
        "num_attention_heads": 32, "num_key_value_heads": 32, "max_position_embeddings": 2048, "rms_norm_eps": 1e-5,
        "sliding_window": 4096,
    },
)  # fmt: skip
