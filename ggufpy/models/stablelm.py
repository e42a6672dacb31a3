"""StableLM: layer norms, a part of each head turned, norms of heads with weights of their own in the largest model.

Where a layer has no norm before its feed-forward part, this one reads what attention reads. Facts:
src/models/stablelm.cpp and conversion/stablelm.py of llama.cpp.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from ggufpy.format.values import Typed

from .base import Inventory, Keys
from .changes import Stack
from .checkpoint import SIZES, Checkpoint, Derived, Field, HfConfig, Present, Rule, Written, linear, rotated
from .llama import read_config, read_rope
from .op import Op
from .parts import LAYER_EPS, Ends, Layer, model
from .plan import Plan
from .rules import PLAIN_ROPE, activation, attention_rules, gated_rules
from .source import TensorTable

TURNED = 0.25  # the part of a head where config.json does not say


def plan(keys: Keys, tensors: TensorTable) -> Plan:
    """The forward pass of the file that `keys` and `tensors` describe. Raises GGUFError for what does not fit."""
    c, table = read_config(keys, eps=LAYER_EPS), Inventory(tensors)
    rope = replace(read_rope(keys, c, table), neox=True)

    def layer(at: Layer) -> Iterator[Op]:
        yield at.norm("attn_norm")
        yield from at.attention(rope)
        yield at.output()
        if "ffn_norm.weight" in at:
            yield at.norm("ffn_norm")
        yield from at.feed_forward()

    return model(c, table, layer, Ends(kind="layer"))


def _rules(config: HfConfig) -> Iterator[Rule]:
    yield from linear("token_embd", "model.embed_tokens")
    yield from linear("output_norm", "model.norm")
    yield from linear("output", "lm_head", optional=True)
    for i in range(config.layers):
        at, hf = f"blk.{i}.", f"model.layers.{i}."
        yield from linear(f"{at}attn_norm", f"{hf}input_layernorm")
        yield from attention_rules(i)
        for name, count in (("q", config.heads), ("k", config.shared)):
            norms = tuple(f"{hf}self_attn.{name}_layernorm.norms.{n}.weight" for n in range(count))
            yield Rule((f"{at}attn_{name}_norm.weight",), norms, Stack(), optional=True)
        yield from linear(f"{at}ffn_norm", f"{hf}post_attention_layernorm", optional=True)
        yield from gated_rules(i)


def _keys(config: HfConfig) -> Mapping[str, Typed]:
    return {"use_parallel_residual": Typed("bool", config.flag("use_parallel_residual"))}


def _config(file: Written) -> Mapping[str, Any]:
    return {"use_parallel_residual": "blk.0.ffn_norm.weight" not in file.tensors}


checkpoint = Checkpoint(
    classes=("StableLmForCausalLM", "StableLMEpochForCausalLM", "StableLmModel", "LlavaStableLMEpochForCausalLM"),
    model_type="stablelm",
    items=(
        *SIZES, PLAIN_ROPE, rotated(TURNED),
        Field("attention.layer_norm_epsilon", "layer_norm_eps|norm_eps", "number", default=1e-5),
        Derived(_keys, _config),
        Present("use_qkv_bias", "blk.0.attn_q.bias"),
        Present("qk_layernorm", "blk.0.attn_q_norm.weight"),
        activation("silu"),
    ),
    rules=_rules,
    defaults={"max_position_embeddings": 4096},
)  # fmt: skip
