"""Nomic's BERT with experts in every other layer: no gates, gelu, biases outside the experts.

Facts: src/models/bert.cpp and conversion/bert.py of llama.cpp. Checkpoints have all experts' matrices one under the
other, (experts · hidden, width), also those that go down.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ggufpy.format.rows import Joined, Rows, Shaped, Transposed
from ggufpy.format.values import Typed
from ggufpy.support.records import dataclass

from .base import Inventory, Keys
from .checkpoint import Checkpoint, Derived, Field, HfConfig, Rule, Written, linear, one, u32
from .encoders import after, encoder
from .llama import read_config, read_rope
from .nomic_bert import IGNORED, ITEMS, body_rules
from .op import Op
from .ops import ExpertMatMul, Gate, MatMul, Route
from .parts import LAYER_EPS, Ends, Layer
from .plan import Plan
from .source import TensorTable

NAME = "nomic-bert-moe"


def plan(keys: Keys, tensors: TensorTable) -> Plan:
    """The forward pass of the file that `keys` and `tensors` describe. Raises GGUFError for what does not fit."""
    c, table = read_config(keys, experts=True, eps=LAYER_EPS), Inventory(tensors)
    rope = replace(read_rope(keys, c, table), neox=True)
    count, used = keys.count("expert_count"), keys.count("expert_used_count")
    every = keys.count("moe_every_n_layers")

    def feed_forward(at: Layer) -> Iterator[Op]:
        if at.i % every != 1:
            yield from at.plain_feed_forward("gelu_erf", "x")
            return
        hidden, width = c.hiddens[at.i], c.width
        yield MatMul("x", at.weight("ffn_gate_inp.weight", count, width), "router")
        yield Route("router", count, "chosen", "shares", used)
        up = at.weight("ffn_up_exps.weight", count, hidden, width)
        yield ExpertMatMul("x", "chosen", up, "up_parts", used)
        yield Gate("up_parts", None, "ffn_parts", used * hidden, "gelu_erf")
        down = at.weight("ffn_down_exps.weight", count, width, hidden)
        yield ExpertMatMul("ffn_parts", "chosen", down, "x", used, own=True, shares="shares", add=True)

    return encoder(c, table, keys, lambda at: after(at, rope, feed_forward), Ends(last_norm=False))


@dataclass(frozen=True)
class Apart:
    """(experts · r, c) as (experts, r, c), or with rows and columns exchanged, (experts, c, r)."""

    experts: int
    turned: bool = False

    def forward(self, tensors: Sequence[Rows]) -> Sequence[Rows]:
        (whole,) = tensors
        apart = Shaped(whole, (self.experts, whole.shape[0] // self.experts, whole.shape[1]))
        return [Transposed(apart) if self.turned else apart]

    def backward(self, tensors: Sequence[Rows]) -> Sequence[Rows]:
        (apart,) = tensors
        back = Transposed(apart) if self.turned else apart
        return [Joined([back], (int(np.prod(back.shape[:-1])), back.shape[-1]))]


def _rules(config: HfConfig) -> Iterator[Rule]:
    yield from body_rules(config)
    experts, every = config.count("num_experts|num_local_experts"), config.count("moe_every_n_layers")
    for i in range(config.layers):
        at, hf = f"blk.{i}.", f"encoder.layers.{i}.mlp."
        if i % every == 1:
            yield one(f"{at}ffn_gate_inp.weight", f"{hf}router.layer.weight")
            yield one(f"{at}ffn_up_exps.weight", f"{hf}experts.mlp.w1", Apart(experts))
            yield one(f"{at}ffn_down_exps.weight", f"{hf}experts.mlp.w2", Apart(experts, turned=True))
        else:
            yield from linear(f"{at}ffn_up", f"{hf}fc1")
            yield from linear(f"{at}ffn_down", f"{hf}fc2")


def _keys(config: HfConfig) -> Mapping[str, Typed]:
    return {"expert_used_count": u32(config.count("moe_top_k|num_experts_per_tok"))}


def _config(file: Written) -> Mapping[str, Any]:
    return {"moe_top_k": int(file.keys["expert_used_count"]), "model_type": "nomic_bert"}


def _sparse(config: HfConfig) -> bool:
    return bool(config.get("moe_every_n_layers"))


checkpoint = Checkpoint(
    classes=("NomicBertModel",),
    model_type="nomic_bert_moe",
    items=(
        *ITEMS,
        Field("expert_count", "num_experts|num_local_experts", least=1),
        Field("moe_every_n_layers", "moe_every_n_layers", least=1),
        Derived(_keys, _config),
    ),
    rules=_rules,
    anchor="|embeddings.word_embeddings.weight",
    ignored=IGNORED,
    claims=_sparse,
)
