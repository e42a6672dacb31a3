"""Gemma: llama's layers with gelu, embeddings times the root of their width, and norms that are kept as what they are
beyond 1 in a checkpoint.

Facts: src/models/gemma.cpp and conversion/gemma.py of llama.cpp. Its successors take their common parts from here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ggufpy.errors import GGUFError
from ggufpy.format.values import Typed

from .base import Inventory, Keys
from .changes import Plus
from .checkpoint import RMS, SIZES, Checkpoint, Derived, HfConfig, Rule
from .llama import read_config
from .op import Op
from .parts import Ends, Layer, model
from .plan import Plan
from .qwen2 import read_halves
from .rules import BEFORE, PLAIN_ROPE, activation, attention_rules, end_rules, gated_rules, norm_rules
from .source import TensorTable

FROM_ONE = Plus(1.0)
GELU = ("gelu_pytorch_tanh", "gelu", "gelu_new")  # "gelu" in older files means the tanh form
LM_HEAD = r"^lm_head\."  # some tools save the embedding once more
# What config.json of the first releases leaves out: the values of transformers' configuration classes.
DEFAULTS: Mapping[str, Any] = {
    "max_position_embeddings": 8192, "head_dim": 256, "rms_norm_eps": 1e-6, "rope_theta": 10000.0,
}  # fmt: skip


def plan(keys: Keys, tensors: TensorTable) -> Plan:
    """The forward pass of the file that `keys` and `tensors` describe. Raises GGUFError for what does not fit."""
    c, table = read_config(keys), Inventory(tensors)
    rope = read_halves(keys, c, table)

    def layer(at: Layer) -> Iterator[Op]:
        yield at.norm("attn_norm")
        yield from at.attention(rope)
        yield at.output()
        yield at.norm("ffn_norm")
        yield from at.feed_forward(kind="gelu")

    return model(c, table, layer, Ends(c.width**0.5))


def gemma_ends(config: HfConfig) -> Iterator[Rule]:
    """As `end_rules`, without an output matrix unless config.json says that there is one."""
    untied = config.values.get("tie_word_embeddings") is False
    for rule in end_rules(FROM_ONE):
        if untied or not rule.gguf[0].startswith("output."):
            yield rule


def _causal(config: HfConfig) -> Mapping[str, Typed]:
    """Nothing. Raises GGUFError for models whose tokens see what follows, which no file of these says."""
    if config.flag("use_bidirectional_attention"):
        raise GGUFError("config.json: use_bidirectional_attention is true, which no file of this architecture can say")
    return {}


CAUSAL = Derived(_causal)


def _rules(config: HfConfig) -> Iterator[Rule]:
    yield from gemma_ends(config)
    for i in range(config.layers):
        yield from norm_rules(i, BEFORE, FROM_ONE)
        yield from attention_rules(i)
        yield from gated_rules(i)


checkpoint = Checkpoint(
    classes=("GemmaForCausalLM",),
    model_type="gemma",
    items=(*SIZES, RMS, PLAIN_ROPE, activation(*GELU), CAUSAL),
    rules=_rules,
    ignored=(*Checkpoint.ignored, LM_HEAD),
    defaults=DEFAULTS,
)
