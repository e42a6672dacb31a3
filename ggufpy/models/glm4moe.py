"""GLM 4.5 and after: experts chosen by sigmoids and a bias, one that all share, and dense layers before them.

Layers that predict further tokens are at the end of a file; they are left out. Facts: src/models/glm4-moe.cpp and
conversion/glm.py of llama.cpp.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from ggufpy.format.values import Typed

from .base import Inventory, Keys
from .checkpoint import RMS, SIZES, Checkpoint, Derived, Field, HfConfig, Present, Rule, one, rotated, u32
from .llama import read_config, read_rope
from .op import Op
from .parts import Layer, leave_out_nextn, model, read_experts
from .plan import Plan
from .rules import (
    EXPERT_ITEMS,
    EXPERTS,
    PLAIN_ROPE,
    activation,
    attention_rules,
    end_rules,
    expert_rules,
    experts_of,
    gated_rules,
    norm_rules,
    optional_head_norms,
)
from .source import TensorTable

NORMS = (("attn_norm", "input_layernorm"), ("post_attention_norm", "post_attention_layernorm"))
SIGMOID = 2  # LLAMA_EXPERT_GATING_FUNC_TYPE_SIGMOID


def plan(keys: Keys, tensors: TensorTable) -> Plan:
    """The forward pass of the file that `keys` and `tensors` describe. Raises GGUFError for what does not fit."""
    c, table = read_config(keys, experts=True), Inventory(tensors)
    leave_out_nextn(keys, c, table)
    experts = read_experts(keys, c, "sigmoid", renormalised=False)
    rope = replace(read_rope(keys, c, table), neox=True)

    def layer(at: Layer) -> Iterator[Op]:
        yield at.norm("attn_norm")
        yield from at.attention(rope)
        yield at.output()
        yield at.norm("post_attention_norm")
        yield from at.experts(experts) if at.i >= experts.dense else at.feed_forward()

    return model(c, table, layer)


def _rules(config: HfConfig) -> Iterator[Rule]:
    yield from end_rules()
    for i in range(config.layers):
        at, hf = f"blk.{i}.", f"model.layers.{i}."
        yield from norm_rules(i, NORMS)
        yield from attention_rules(i)
        yield from optional_head_norms(i)
        if i < config.count("first_k_dense_replace", least=0):
            yield from gated_rules(i)
            continue
        yield one(f"{at}ffn_gate_inp.weight", f"{hf}mlp.gate.weight")
        yield one(f"{at}exp_probs_b.bias", f"{hf}mlp.gate.e_score_correction_bias")
        yield from expert_rules(i, experts_of(config))
        yield from gated_rules(i, "mlp.shared_experts", "_shexp")


def _keys(config: HfConfig) -> Mapping[str, Typed]:
    return {"expert_gating_func": u32(SIGMOID)}


checkpoint = Checkpoint(
    classes=("Glm4MoeForCausalLM", "Glm4MoeModel"),
    model_type="glm4_moe",
    items=(
        *SIZES, RMS, PLAIN_ROPE, rotated(0.5), *EXPERT_ITEMS,
        Field("expert_group_count", "n_group", default=None),
        Field("expert_group_used_count", "topk_group", default=None),
        Field("expert_feed_forward_length", "moe_intermediate_size", least=1),
        Field("expert_shared_count", "n_shared_experts"),
        Field("leading_dense_block_count", "first_k_dense_replace"),
        Field("expert_weights_scale", "routed_scaling_factor", "number", default=1.0),
        Field("expert_weights_norm", "norm_topk_prob", "flag", default=True),
        Derived(_keys),
        Present("attention_bias", "blk.0.attn_q.bias"),
        Present("use_qk_norm", "blk.0.attn_q_norm.weight"),
        activation("silu"),
    ),
    rules=_rules,
    experts=EXPERTS,
    defaults={
        "max_position_embeddings": 131072, "rms_norm_eps": 1e-5, "n_group": 1, "topk_group": 1, "n_shared_experts": 1,
        "first_k_dense_replace": 1, "moe_intermediate_size": 1408,
    },
)  # fmt: skip
