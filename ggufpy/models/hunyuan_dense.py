"""Hunyuan, dense: norms of queries and keys after they are turned; long contexts by a larger base of rotation.

Facts: src/models/hunyuan-vl.cpp (whose graph dense models share) and conversion/hunyuan.py of llama.cpp.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from ggufpy.errors import GGUFError
from ggufpy.format.values import Typed

from .base import Inventory, Keys
from .checkpoint import RMS, SIZES, Checkpoint, Derived, HfConfig, Present, Rule, f32, u32
from .llama import read_config, read_rope
from .op import Op
from .parts import Layer, model
from .plan import Plan
from .rules import BEFORE, PLAIN_ROPE, activation, attention_rules, end_rules, gated_rules, norm_rules
from .source import TensorTable

NAME = "hunyuan-dense"
CONTEXT = 256 * 1024  # of models with alpha; their config.json says less
HEAD_NORMS = (("attn_q_norm", "self_attn.query_layernorm"), ("attn_k_norm", "self_attn.key_layernorm"))


def plan(keys: Keys, tensors: TensorTable) -> Plan:
    """The forward pass of the file that `keys` and `tensors` describe. Raises GGUFError for what does not fit."""
    c, table = read_config(keys, experts=keys.count("expert_count", 0, least=0) == 1), Inventory(tensors)
    rope = replace(read_rope(keys, c, table), neox=True)

    def layer(at: Layer) -> Iterator[Op]:
        at.must_have_head_norms()
        yield at.norm("attn_norm")
        yield from at.qkv()
        yield from at.rotate(rope)
        yield from at.head_norms()
        yield from at.attend()
        yield at.output()
        yield at.norm("ffn_norm")
        yield from at.feed_forward()

    return model(c, table, layer)


def _rules(config: HfConfig) -> Iterator[Rule]:
    yield from end_rules()
    for i in range(config.layers):
        yield from norm_rules(i, (*BEFORE, *HEAD_NORMS))
        yield from attention_rules(i)
        yield from gated_rules(i)


def _keys(config: HfConfig) -> Mapping[str, Typed]:
    """rope_type "dynamic" stands for a base that is alpha^(d / (d - 2)) times as large, whatever the length of a text.

    Raises GGUFError for one without alpha, which would mean a base that goes with the length.
    """
    rope, d = config.rope(), config.head_length
    if rope.text("rope_type", "default") != "dynamic":
        return {}
    if "alpha" not in rope or d < 3 or not 0 < rope.number("alpha") < 1e9:
        raise GGUFError("config.json: rope_type is dynamic without an alpha that ggufpy could run with")
    return {
        "rope.freq_base": f32(rope.number("rope_theta", 10000.0) * rope.number("alpha") ** (d / (d - 2))),
        "rope.scaling.type": Typed("string", "none"),
        "rope.scaling.factor": f32(1.0),
        "rope.scaling.original_context_length": u32(CONTEXT),
        "context_length": u32(CONTEXT),
    }


checkpoint = Checkpoint(
    classes=("HunYuanDenseV1ForCausalLM", "HunYuanDenseV1Model"),
    model_type="hunyuan_v1_dense",
    items=(
        *SIZES, RMS, PLAIN_ROPE, Derived(_keys), Present("attention_bias", "blk.0.attn_q.bias"), activation("silu"),
    ),
    rules=_rules,
    defaults={"max_position_embeddings": 2048, "rms_norm_eps": 1e-5},
)  # fmt: skip
