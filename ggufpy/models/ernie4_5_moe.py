"""ERNIE 4.5 with experts: chosen by softmax and a bias, experts that all share, dense layers before, between or after.

Facts: src/models/ernie4-5-moe.cpp and conversion/ernie.py of llama.cpp.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ggufpy.format.values import Typed

from .base import Inventory, Keys
from .changes import Reshape
from .checkpoint import Checkpoint, Derived, Field, HfConfig, Rule, Written, one, u32
from .ernie4_5 import DEFAULTS, ERNIE, dense_rules, layer_rules
from .llama import read_config, read_rope
from .op import Op
from .parts import Layer, model, read_experts
from .plan import Plan
from .rules import end_rules, expert_rules, gated_rules
from .source import TensorTable

NAME = "ernie4_5-moe"
COUNT = "moe_num_experts"
SHARED = "expert_shared_feed_forward_length"


def plan(keys: Keys, tensors: TensorTable) -> Plan:
    """The forward pass of the file that `keys` and `tensors` describe. Raises GGUFError for what does not fit."""
    c, table = read_config(keys, experts=True), Inventory(tensors)
    experts, rope = read_experts(keys, c), read_rope(keys, c, table)

    def layer(at: Layer) -> Iterator[Op]:
        yield at.norm("attn_norm")
        yield from at.attention(rope)
        yield at.output()
        yield at.norm("ffn_norm")
        yield from at.experts(experts) if "ffn_gate_inp.weight" in at else at.feed_forward()

    return model(c, table, layer)


def _has_experts(config: HfConfig, i: int) -> bool:
    """Whether layer i has: every so many, within bounds (Ernie4_5_MoeDecoderLayer of transformers)."""
    first, last = config.count("moe_layer_start_index", least=0), config.get("moe_layer_end_index")
    last = config.layers - 1 if last in (None, -1) else config.count("moe_layer_end_index", least=0)
    return (i + 1) % config.count("moe_layer_interval") == 0 and first <= i <= last


def _rules(config: HfConfig) -> Iterator[Rule]:
    yield from end_rules()
    count = config.count(COUNT)
    for i in range(config.layers):
        yield from layer_rules(i, config)
        if not _has_experts(config, i):
            yield from dense_rules(i, config)
            continue
        yield one(f"blk.{i}.ffn_gate_inp.weight", f"model.layers.{i}.mlp.gate.weight")
        bias = f"model.layers.{i}.mlp.moe_statics.e_score_correction_bias"
        yield one(f"blk.{i}.exp_probs_b.bias", bias, Reshape((1, count), (1, count)), optional=True)
        yield from expert_rules(i, count)
        if config.count("moe_num_shared_experts", least=0):
            yield from gated_rules(i, "mlp.shared_experts", "_shexp")


def _keys(config: HfConfig) -> Mapping[str, Typed]:
    shared = config.count("moe_num_shared_experts", least=0)
    return {SHARED: u32(shared * config.count("moe_intermediate_size"))} if shared else {}


def _config(file: Written) -> Mapping[str, Any]:
    """Where experts end, which no key says."""
    having = [i for i in range(file.keys["block_count"]) if f"blk.{i}.ffn_gate_inp.weight" in file.tensors]
    return {"moe_layer_end_index": having[-1]} if having else {}


checkpoint = Checkpoint(
    classes=("Ernie4_5_MoeForCausalLM", "Ernie4_5_MoeModel"),
    model_type="ernie4_5_moe",
    items=(
        *ERNIE,
        Field("expert_count", COUNT, least=1),
        Field("expert_used_count", "moe_k", least=1),
        Field("interleave_moe_layer_step", "moe_layer_interval", least=1),
        Field("leading_dense_block_count", "moe_layer_start_index"),
        Field("expert_feed_forward_length", "moe_intermediate_size", least=1),
        Field("expert_shared_count", "moe_num_shared_experts"),
        Derived(_keys, _config),
    ),
    rules=_rules,
    experts=COUNT,
    defaults={
        **DEFAULTS, "moe_num_experts": 64, "moe_k": 6, "moe_num_shared_experts": 2, "moe_layer_start_index": 1,
        "moe_layer_interval": 1, "moe_intermediate_size": 1536,
    },
)  # fmt: skip
