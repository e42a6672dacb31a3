"""Qwen 3 with experts: norms of each head, halves turned, and of many feed-forward parts a few for each token.

The router's softmax is divided by what the chosen have of it. Facts: src/models/qwen3moe.cpp and build_moe_ffn in
src/llama-graph.cpp of llama.cpp.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from ggufpy.errors import GGUFError

from .base import Inventory, Keys, vocabulary_of
from .llama import Config, read_config, read_rope
from .op import Op
from .ops import Attend, Embed, ExpertMatMul, Gate, MatMul, Norm, Rope, Rotate, Route, StoreKv
from .plan import Plan
from .source import TensorTable


@dataclass(frozen=True)
class Experts:
    """How many there are, how many of them a token uses, and the width of each one's feed-forward part."""

    count: int
    used: int
    hidden: int


def read_experts(keys: Keys, c: Config) -> Experts:
    """Raises GGUFError for a value that is missing or inconsistent."""
    count, used = keys.count("expert_count"), keys.count("expert_used_count")
    if used > count:
        raise GGUFError(f"{keys.architecture}.expert_used_count is {used}, of {count} experts")
    hidden = keys.count("expert_feed_forward_length", c.hidden // used, least=0) or c.hidden // used
    if not hidden:
        raise GGUFError(f"the metadata has no {keys.architecture}.expert_feed_forward_length")
    return Experts(count, used, hidden)


def _attention(i: int, c: Config, rope: Rope, tensors: Inventory) -> Iterator[Op]:
    h, at = c.heads, f"blk.{i}."

    def product(x: str, name: str, y: str, rows: int, columns: int, add: bool = False) -> MatMul:
        weight = tensors.weight(f"{at}{name}.weight", rows, columns)
        return MatMul(x, weight, y, tensors.optional(f"{at}{name}.bias", rows), add)

    def each_head(x: str, name: str, heads: int) -> Norm:
        return Norm(x, tensors.weight(f"{at}{name}.weight", h.key_length), x, c.eps, heads)

    yield Norm("x", tensors.weight(f"{at}attn_norm.weight", c.width), "norm", c.eps)
    yield product("norm", "attn_q", "q", h.queries * h.key_length, c.width)
    yield product("norm", "attn_k", "k", h.shared * h.key_length, c.width)
    yield product("norm", "attn_v", "v", h.shared * h.value_length, c.width)
    yield each_head("q", "attn_q_norm", h.queries)
    yield each_head("k", "attn_k_norm", h.shared)
    yield Rotate("q", h.queries, h.key_length, rope)
    yield Rotate("k", h.shared, h.key_length, rope)
    yield StoreKv(i, "k", "v", h)
    yield Attend(i, "q", "attn", h, 1.0 / h.key_length**0.5)
    yield product("attn", "attn_output", "x", c.width, h.queries * h.value_length, add=True)


def _feed_forward(i: int, c: Config, experts: Experts, tensors: Inventory) -> Iterator[Op]:
    at, n = f"blk.{i}.", experts.count

    def up(name: str, y: str) -> ExpertMatMul:
        weight = tensors.weight(f"{at}{name}.weight", n, experts.hidden, c.width)
        return ExpertMatMul("norm", "chosen", weight, y, experts.used)

    yield Norm("x", tensors.weight(f"{at}ffn_norm.weight", c.width), "norm", c.eps)
    yield MatMul("norm", tensors.weight(f"{at}ffn_gate_inp.weight", n, c.width), "router")
    yield Route("router", n, "chosen", "shares", experts.used, renormalised=True)
    yield up("ffn_gate_exps", "gate")
    yield up("ffn_up_exps", "up")
    yield Gate("gate", "up", "ffn", experts.used * experts.hidden)
    down = tensors.weight(f"{at}ffn_down_exps.weight", n, c.width, experts.hidden)
    yield ExpertMatMul("ffn", "chosen", down, "x", experts.used, own=True, shares="shares", add=True)


def plan(keys: Keys, tensors: TensorTable) -> Plan:
    """The forward pass of the file that `keys` and `tensors` describe. Raises GGUFError for what does not fit."""
    c, table = read_config(keys, experts=True), Inventory(tensors)
    experts, vocabulary = read_experts(keys, c), vocabulary_of(tensors)
    embedding = table.weight("token_embd.weight", vocabulary, c.width)
    rope = replace(read_rope(keys, c, table), neox=True)
    layers = tuple((*_attention(i, c, rope, table), *_feed_forward(i, c, experts, table)) for i in range(c.layers))
    output = table.optional("output.weight", vocabulary, c.width) or embedding
    head = (
        Norm("x", table.weight("output_norm.weight", c.width), "norm", c.eps),
        MatMul("norm", output, "logits"),
    )
    table.finish()
    return Plan(c.context, vocabulary, Embed(embedding, "x"), layers, head)
