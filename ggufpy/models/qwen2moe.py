"""Qwen 2 with experts: their shares are those of the whole softmax, and one expert that all tokens share is gated.

The gate is a number for each token, the sigmoid of a product with what the experts read. Facts: src/models/qwen2moe.cpp
and conversion/qwen.py of llama.cpp.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from ggufpy.errors import GGUFError
from ggufpy.format.values import Typed

from .base import Inventory, Keys
from .changes import Reshape
from .checkpoint import RMS, SIZES, Checkpoint, Derived, Field, HfConfig, Rule, Written, one
from .llama import read_config
from .op import Op
from .parts import Layer, model, read_experts
from .plan import Plan
from .qwen2 import read_halves, read_near
from .qwen3moe import all_with_experts
from .rules import (
    BEFORE,
    PLAIN_ROPE,
    QWEN_EXPERTS,
    Windows,
    activation,
    attention_rules,
    end_rules,
    expert_items,
    expert_rules,
    experts_of,
    gated_rules,
    norm_rules,
)
from .scaling import ScaleByGate
from .source import TensorTable


def plan(keys: Keys, tensors: TensorTable) -> Plan:
    """The forward pass of the file that `keys` and `tensors` describe. Raises GGUFError for what does not fit."""
    c, table = read_config(keys, experts=True), Inventory(tensors)
    experts = read_experts(keys, c, renormalised=False)
    shared = experts.shared or c.hidden
    rope, near = read_halves(keys, c, table), read_near(keys, c)

    def layer(at: Layer) -> Iterator[Op]:
        yield at.norm("attn_norm")
        yield from at.attention(rope, window=c.window if near[at.i] else 0)
        yield at.output()
        yield at.norm("ffn_norm")
        yield from at.experts(replace(experts, shared=0))
        yield from at.gated(shared, end="_shexp")
        yield ScaleByGate("norm", at.weight("ffn_gate_inp_shexp.weight", c.width), "ffn", shared)
        yield at.product("ffn", "ffn_down_shexp", "x", (c.width, shared), add=True)

    return model(c, table, layer)


def _keys(config: HfConfig) -> Mapping[str, Typed]:
    """Nothing. Raises GGUFError for a model that the file would be wrong about."""
    all_with_experts(config)
    if config.flag("norm_topk_prob", False):
        raise GGUFError("config.json: norm_topk_prob is true, and files of qwen2moe are run as if it were false")
    return {}


def _config(file: Written) -> Mapping[str, object]:
    return {"norm_topk_prob": False, "decoder_sparse_step": 1, "mlp_only_layers": []}


def _windows(config: HfConfig) -> list[bool]:
    """Every other layer, of those before max_window_layers (transformers)."""
    last = config.count("max_window_layers", 28, least=0) if config.flag("use_sliding_window") else 0
    return [i % 2 == 0 and i < last for i in range(config.layers)]


def _rules(config: HfConfig) -> Iterator[Rule]:
    yield from end_rules()
    for i in range(config.layers):
        hf = f"model.layers.{i}.mlp"
        yield from norm_rules(i, BEFORE)
        yield from attention_rules(i)
        yield one(f"blk.{i}.ffn_gate_inp.weight", f"{hf}.gate.weight")
        yield from expert_rules(i, experts_of(config))
        yield from gated_rules(i, "mlp.shared_expert", "_shexp")
        row = Reshape((1, config.width), (1, config.width))  # some files have a vector
        yield one(f"blk.{i}.ffn_gate_inp_shexp.weight", f"{hf}.shared_expert_gate.weight", row)


checkpoint = Checkpoint(
    classes=("Qwen2MoeForCausalLM",),
    model_type="qwen2_moe",
    items=(
        *SIZES, RMS, PLAIN_ROPE, Windows(_windows, said={"use_sliding_window": True}), *expert_items(QWEN_EXPERTS),
        Field("expert_feed_forward_length", "moe_intermediate_size", default=None, least=1),
        Field("expert_shared_feed_forward_length", "shared_expert_intermediate_size", default=None, least=1),
        Derived(_keys, _config), activation("silu"),
    ),
    rules=_rules,
    experts=QWEN_EXPERTS,
    defaults={
        "vocab_size": 151936, "hidden_size": 2048, "intermediate_size": 5632, "num_hidden_layers": 24,
        "num_attention_heads": 16, "num_key_value_heads": 16, "max_position_embeddings": 32768, "rms_norm_eps": 1e-6,
        "sliding_window": 4096, "moe_intermediate_size": 1408, "shared_expert_intermediate_size": 5632,
    },
)  # fmt: skip
