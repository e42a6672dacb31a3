"""Qwen 3 with experts: norms of each head, halves turned, and of many feed-forward parts a few for each token.

The router's softmax is divided by what the chosen have of it. Facts: src/models/qwen3moe.cpp, build_moe_ffn in
src/llama-graph.cpp and conversion/qwen.py of llama.cpp.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from ggufpy.errors import GGUFError
from ggufpy.format.values import Typed

from .base import Inventory, Keys
from .checkpoint import RMS, SIZES, Checkpoint, Derived, Field, HfConfig, Present, Rule, Written, one
from .llama import read_config
from .op import Op
from .parts import Layer, model, read_experts
from .plan import Plan
from .qwen2 import read_halves, read_near
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
    head_norm_rules,
    norm_rules,
)
from .source import TensorTable


def plan(keys: Keys, tensors: TensorTable) -> Plan:
    """The forward pass of the file that `keys` and `tensors` describe. Raises GGUFError for what does not fit."""
    c, table = read_config(keys, experts=True), Inventory(tensors)
    experts = read_experts(keys, c)
    rope, near = read_halves(keys, c, table), read_near(keys, c)

    def layer(at: Layer) -> Iterator[Op]:
        at.must_have_head_norms()
        yield at.norm("attn_norm")
        yield from at.attention(rope, window=c.window if near[at.i] else 0)
        yield at.output()
        yield at.norm("ffn_norm")
        yield from at.experts(experts)

    return model(c, table, layer)


def all_with_experts(config: HfConfig) -> None:
    """Raises GGUFError where some layers have no experts, which no file of llama.cpp's can say."""
    if config.items("mlp_only_layers", []) or config.count("decoder_sparse_step", 1) != 1:
        raise GGUFError(
            "config.json: some layers have no experts (mlp_only_layers, decoder_sparse_step), which no file can say"
        )


def _keys(config: HfConfig) -> Mapping[str, Typed]:
    """Nothing. Raises GGUFError for a model that the file would be wrong about."""
    all_with_experts(config)
    if not config.flag("norm_topk_prob", False):
        raise GGUFError("config.json: norm_topk_prob is false, and files of qwen3moe are run as if it were true")
    return {}


def _config(file: Written) -> Mapping[str, object]:
    return {"norm_topk_prob": True, "decoder_sparse_step": 1, "mlp_only_layers": []}


def _windows(config: HfConfig) -> list[bool]:
    return [config.flag("use_sliding_window")] * config.layers


def _rules(config: HfConfig) -> Iterator[Rule]:
    yield from end_rules()
    for i in range(config.layers):
        yield from norm_rules(i, BEFORE)
        yield from attention_rules(i)
        yield from head_norm_rules(i)
        yield one(f"blk.{i}.ffn_gate_inp.weight", f"model.layers.{i}.mlp.gate.weight")
        yield from expert_rules(i, experts_of(config))


checkpoint = Checkpoint(
    classes=("Qwen3MoeForCausalLM",),
    model_type="qwen3_moe",
    items=(
        *SIZES, RMS, PLAIN_ROPE, Windows(_windows, said={"use_sliding_window": True}), *expert_items(QWEN_EXPERTS),
        Field("expert_feed_forward_length", "moe_intermediate_size", default=None, least=1),
        Present("attention_bias", "blk.0.attn_q.bias"),
        Derived(_keys, _config), activation("silu"),
    ),
    rules=_rules,
    experts=QWEN_EXPERTS,
    defaults={
        "vocab_size": 151936, "hidden_size": 2048, "intermediate_size": 6144, "num_hidden_layers": 24,
        "num_attention_heads": 32, "num_key_value_heads": 4, "max_position_embeddings": 32768, "rms_norm_eps": 1e-6,
        "sliding_window": 4096, "moe_intermediate_size": 768,
    },
)  # fmt: skip
