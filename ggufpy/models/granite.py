"""Granite 3 and 4: llama's layers with factors of embeddings, scores, what is added to the residual stream, and logits.

Facts: src/models/granite.cpp and conversion/granite.py of llama.cpp; granitemoe has its experts from here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ggufpy.errors import GGUFError
from ggufpy.format.values import Typed

from .base import Inventory, Keys
from .checkpoint import (
    BARE_SIZES,
    RMS,
    ROTATED,
    VOCABULARY,
    Checkpoint,
    Derived,
    Field,
    HfConfig,
    Present,
)
from .llama import read_config, read_mixture, read_rope, rules
from .op import Op
from .parts import Ends, Layer, model
from .plan import Plan
from .rules import PLAIN_ROPE, activation
from .source import TensorTable


def plan(keys: Keys, tensors: TensorTable) -> Plan:
    """The forward pass of the file that `keys` and `tensors` describe. Raises GGUFError for what does not fit."""
    c, table = read_config(keys, experts=bool(keys.count("expert_count", 0, least=0))), Inventory(tensors)
    experts = read_mixture(keys, c, table)
    rope = read_rope(keys, c, table) if keys.flag("rope.scaling.finetuned", True) else None
    scores, residual, embedding = (
        keys.number(name, 0.0, or_zero=True) for name in ("attention.scale", "residual_scale", "embedding_scale")
    )

    def layer(at: Layer) -> Iterator[Op]:
        yield at.norm("attn_norm")
        yield from at.qkv()
        if rope is not None:
            yield from at.rotate(rope)
        yield from at.attend(scale=scores)
        yield at.output("out", add=False)
        yield from at.added(scale=residual or 1.0)
        yield at.norm("ffn_norm")
        if experts is None:
            yield from at.feed_forward(y="out", add=False)
        else:
            yield from at.experts(experts, out="out")
        yield from at.added(scale=residual or 1.0)

    return model(c, table, layer, Ends(embedding or 1.0, 1.0 / keys.number("logit_scale")))


def _no_width_of_its_own(config: HfConfig) -> Mapping[str, Typed]:
    """Nothing. Raises GGUFError for heads of another width than the model's shared out, which files cannot say."""
    usual = config.width // config.heads
    if config.head_length != usual:
        raise GGUFError(f"config.json: head_dim is {config.head_length}, and heads of granite are {usual} wide")
    return {}


# What the configuration classes of transformers have where config.json says nothing.
DEFAULTS: Mapping[str, Any] = {
    "vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32,
    "num_attention_heads": 32, "max_position_embeddings": 2048, "rms_norm_eps": 1e-6,
}  # fmt: skip
FACTORS = (
    Field("attention.scale", "attention_multiplier", "number", 1.0),
    Field("embedding_scale", "embedding_multiplier", "number", 1.0),
    Field("residual_scale", "residual_multiplier", "number", 1.0),
    Field("logit_scale", "logits_scaling", "number", 1.0),
)
GRANITE_ITEMS = (
    *BARE_SIZES, RMS, VOCABULARY, PLAIN_ROPE, ROTATED, *FACTORS,
    activation("silu", "swish"), Derived(_no_width_of_its_own), Present("attention_bias", "blk.0.attn_q.bias"),
)  # fmt: skip

checkpoint = Checkpoint(
    classes=("GraniteForCausalLM",),
    model_type="granite",
    items=(*GRANITE_ITEMS, Present("mlp_bias", "blk.0.ffn_up.bias")),
    rules=rules,
    defaults=DEFAULTS,
)
