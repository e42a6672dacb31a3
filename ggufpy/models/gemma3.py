"""Gemma 3, text: norms around attention and feed-forward and of each head, gelu, most layers with a window.

Five layers of six see the latest positions only, and turn by a base of their own. Facts: src/models/gemma3.cpp and
src/llama-model.cpp of llama.cpp (periods, defaults, the scale of the 27B model).
"""

from __future__ import annotations

from dataclasses import replace

from .base import Inventory, Keys, vocabulary_of
from .llama import Config, read_config, read_rope
from .op import Op
from .ops import Add, Attend, Embed, Gate, MatMul, Norm, Rope, Rotate, SoftCap, StoreKv
from .plan import Plan
from .source import TensorTable

PERIOD = 6  # of layers, the last of which sees everything
LAYERS_OF_27B = 62


def _layer(i: int, c: Config, rope: Rope, window: int, tensors: Inventory) -> tuple[Op, ...]:
    h, at = c.heads, f"blk.{i}."

    def product(x: str, name: str, y: str, rows: int, columns: int) -> MatMul:
        return MatMul(x, tensors.weight(f"{at}{name}.weight", rows, columns), y)

    def norm(x: str, name: str, y: str) -> Norm:
        return Norm(x, tensors.weight(f"{at}{name}.weight", c.width), y, c.eps)

    def each_head(x: str, name: str, heads: int) -> Norm:
        return Norm(x, tensors.weight(f"{at}{name}.weight", h.key_length), x, c.eps, heads)

    scaled = c.width // h.queries if c.layers == LAYERS_OF_27B else h.key_length
    return (
        norm("x", "attn_norm", "norm"),
        product("norm", "attn_q", "q", h.queries * h.key_length, c.width),
        product("norm", "attn_k", "k", h.shared * h.key_length, c.width),
        product("norm", "attn_v", "v", h.shared * h.value_length, c.width),
        each_head("q", "attn_q_norm", h.queries),
        each_head("k", "attn_k_norm", h.shared),
        Rotate("q", h.queries, h.key_length, rope),
        Rotate("k", h.shared, h.key_length, rope),
        StoreKv(i, "k", "v", h),
        Attend(i, "q", "attn", h, 1.0 / scaled**0.5, window),
        product("attn", "attn_output", "out", c.width, h.queries * h.value_length),
        norm("out", "post_attention_norm", "out"),
        Add("out", "x", c.width),
        norm("x", "ffn_norm", "norm"),
        product("norm", "ffn_gate", "gate", c.hidden, c.width),
        product("norm", "ffn_up", "up", c.hidden, c.width),
        Gate("gate", "up", "ffn", c.hidden, "gelu"),
        product("ffn", "ffn_down", "out", c.width, c.hidden),
        norm("out", "post_ffw_norm", "out"),
        Add("out", "x", c.width),
    )


def plan(keys: Keys, tensors: TensorTable) -> Plan:
    """The forward pass of the file that `keys` and `tensors` describe. Raises GGUFError for what does not fit."""
    c, table = read_config(keys), Inventory(tensors)
    cap = keys.number("final_logit_softcapping", 0.0, or_zero=True)
    vocabulary = vocabulary_of(tensors)
    embedding = table.weight("token_embd.weight", vocabulary, c.width)
    everywhere = replace(read_rope(keys, c, table), neox=True)
    within = Rope(everywhere.dimensions, keys.number("rope.freq_base_swa", 10000.0, (1.5, 1e12)), neox=True)
    near = keys.flags("attention.sliding_window_pattern", c.layers, PERIOD) if c.window else [False] * c.layers
    layers = tuple(
        _layer(i, c, within if near[i] else everywhere, c.window if near[i] else 0, table) for i in range(c.layers)
    )
    head = (
        Norm("x", table.weight("output_norm.weight", c.width), "norm", c.eps),
        MatMul("norm", table.optional("output.weight", vocabulary, c.width) or embedding, "logits"),
        *([SoftCap("logits", vocabulary, cap)] if cap and not c.window else []),  # as llama.cpp has it
    )
    table.finish()
    return Plan(c.context, vocabulary, Embed(embedding, "x", c.width**0.5), layers, head)
