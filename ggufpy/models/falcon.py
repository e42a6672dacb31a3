"""Falcon: attention and feed-forward side by side, layer norms, few key heads or one, halves of a head turned together.

The 7B has one norm for both; the 40B and 180B one each. Checkpoints have queries, keys and values of a key head
together: its query heads, then its key, then its value. Facts: src/models/falcon.cpp and conversion/falcon.py of
llama.cpp.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from ggufpy.errors import GGUFError
from ggufpy.format.values import Typed, shown
from ggufpy.support.records import dataclass

from .base import Inventory, Keys
from .changes import Order, Reordering
from .checkpoint import Checkpoint, Derived, Field, HfConfig, Rule, Written, linear, one, u32
from .llama import read_config
from .op import Op
from .parts import LAYER_EPS, Ends, Layer, model
from .plan import Plan
from .qwen2 import read_halves
from .rules import PLAIN_ROPE
from .source import TensorTable

CONTEXT = 2048  # of all of them; config.json need not say


def plan(keys: Keys, tensors: TensorTable) -> Plan:
    """The forward pass of the file that `keys` and `tensors` describe. Raises GGUFError for what does not fit."""
    c, table = read_config(keys, eps=LAYER_EPS), Inventory(tensors)
    rope = read_halves(keys, c, table)

    def layer(at: Layer) -> Iterator[Op]:
        own = "attn_norm_2.weight" in at
        yield at.norm("attn_norm")
        if own:
            yield at.norm("attn_norm_2", y="norm2")
        yield from at.attention(rope, "norm2" if own else "norm")
        yield at.output()
        yield from at.plain_feed_forward("gelu_erf")

    return model(c, table, layer, Ends(kind="layer"))


@dataclass(frozen=True)
class ByKeyHead(Reordering):
    """Rows that stand by key head, (queries of it, key, value), put as all queries, all keys, all values.

    With 4 query and 2 key heads of one row each, q0 q1 k0 v0 q2 q3 k1 v1 becomes q0 q1 q2 q3 k0 k1 v0 v1.
    """

    queries: int
    shared: int

    def order(self, rows: int) -> Order:
        parts = self.queries // self.shared + 2
        if rows % (parts * self.shared):
            raise GGUFError(f"{rows} rows are not {self.queries} query heads and {self.shared} key and value heads")
        place = np.arange(rows).reshape(self.shared, parts, -1)
        order: Order = np.concatenate([place[:, :-2].ravel(), place[:, -2].ravel(), place[:, -1].ravel()])
        return order


def _newer(config: HfConfig) -> bool:
    """Whether layers are those of the 40B, whose first files say so by their number of key heads alone."""
    return config.flag("new_decoder_architecture") or "n_head_kv" in config


def _shared(config: HfConfig) -> int:
    """Key heads: as said, one for all (the 7B), or one for each query head."""
    if _newer(config):
        return config.count("num_kv_heads|n_head_kv", config.heads)
    return 1 if config.flag("multi_query", True) else config.heads


def _keys(config: HfConfig) -> Mapping[str, Typed]:
    """Raises GGUFError for kinds that were never published as models."""
    if config.flag("alibi") or not (config.flag("parallel_attn", True) or _newer(config)):
        raise GGUFError("config.json: alibi or no parallel_attn, which ggufpy does not run for Falcon")
    said = config.text("activation", "gelu")
    if said != "gelu":
        raise GGUFError(f"config.json: activation is {shown(said)}; this architecture has gelu alone")
    hidden = config.count("ffn_hidden_size", 4 * config.width)
    return {
        "feed_forward_length": u32(hidden),
        "attention.head_count_kv": u32(_shared(config)),
        "tensor_data_layout": Typed("string", "jploski"),
        **PLAIN_ROPE.keys(config),
    }


def _config(file: Written) -> Mapping[str, Any]:
    newer = "blk.0.attn_norm_2.weight" in file.tensors
    shared, heads = (int(file.keys[f"attention.head_count{end}"]) for end in ("_kv", ""))
    return {
        "new_decoder_architecture": newer, "parallel_attn": True, "alibi": False, "num_kv_heads": shared,
        "multi_query": not newer and shared == 1 and heads > 1, "bias": "blk.0.attn_qkv.bias" in file.tensors,
        "ffn_hidden_size": int(file.keys["feed_forward_length"]),
        **PLAIN_ROPE.config(file),
    }  # fmt: skip


def _rules(config: HfConfig) -> Iterator[Rule]:
    yield one("token_embd.weight", "transformer.word_embeddings.weight")
    yield from linear("output_norm", "transformer.ln_f")
    yield from linear("output", "lm_head", optional=True)
    fused = ByKeyHead(config.heads, _shared(config))
    for i in range(config.layers):
        at, hf = f"blk.{i}.", f"transformer.h.{i}."
        if _newer(config):
            yield from linear(f"{at}attn_norm_2", f"{hf}ln_attn", optional=True)
            yield from linear(f"{at}attn_norm", f"{hf}ln_mlp", optional=True)
        yield from linear(f"{at}attn_norm", f"{hf}input_layernorm", optional=True)
        yield from linear(f"{at}attn_qkv", f"{hf}self_attention.query_key_value", fused)
        yield from linear(f"{at}attn_output", f"{hf}self_attention.dense")
        yield from linear(f"{at}ffn_up", f"{hf}mlp.dense_h_to_4h")
        yield from linear(f"{at}ffn_down", f"{hf}mlp.dense_4h_to_h")


checkpoint = Checkpoint(
    classes=("FalconForCausalLM", "RWForCausalLM", "FalconModel"),
    model_type="falcon",
    items=(
        Field("block_count", "num_hidden_layers|n_layer", least=1),
        Field("context_length", "max_position_embeddings", default=CONTEXT, least=1),
        Field("embedding_length", "hidden_size|n_embed", least=1),
        Field("attention.head_count", "num_attention_heads|n_head", least=1),
        Field("attention.layer_norm_epsilon", "layer_norm_epsilon", "number", default=1e-5),
        Derived(_keys, _config),
    ),
    rules=_rules,
    defaults={"tie_word_embeddings": True},
    anchor="transformer.|word_embeddings.weight",
    ignored=(r"rotary.*inv_freq$", r"self_attention\.(masked_)?bias$"),
)
