"""GPT-2: learned positions, layer norms, fused queries, keys and values, and a feed-forward part without a gate.

Checkpoints hold matrices as (in, out). Facts: src/models/gpt2.cpp and conversion/gpt2.py of llama.cpp.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from ggufpy.errors import GGUFError
from ggufpy.format.values import Typed

from .base import Inventory, Keys
from .changes import Transpose
from .checkpoint import Checkpoint, Derived, Field, HfConfig, Rule, Written, linear, one, u32
from .llama import read_config
from .op import Op
from .parts import LAYER_EPS, Ends, Layer, model
from .plan import Plan
from .rules import activation
from .source import TensorTable

GELU = ("gelu_new", "gelu_pytorch_tanh", "gelu_fast", "gelu")  # files know the tanh form alone


def plan(keys: Keys, tensors: TensorTable) -> Plan:
    """The forward pass of the file that `keys` and `tensors` describe. Raises GGUFError for what does not fit."""
    c, table = read_config(keys, eps=LAYER_EPS), Inventory(tensors)

    def layer(at: Layer) -> Iterator[Op]:
        yield at.norm("attn_norm")
        yield from at.attention(None)
        yield at.output()
        yield at.norm("ffn_norm")
        yield from at.plain_feed_forward("gelu")

    return model(c, table, layer, Ends(kind="layer", positions=True))


def _keys(config: HfConfig) -> Mapping[str, Typed]:
    """Raises GGUFError for scores that are scaled otherwise than by the width of heads."""
    if not config.flag("scale_attn_weights", True) or config.flag("scale_attn_by_inverse_layer_idx"):
        raise GGUFError(
            "config.json: scale_attn_weights is false or scale_attn_by_inverse_layer_idx true, which no file can say"
        )
    return {"feed_forward_length": u32(config.count("n_inner", 4 * config.width))}


def _n_inner(file: Written) -> Mapping[str, int]:
    return {"n_inner": int(file.keys["feed_forward_length"])}


def _rules(config: HfConfig) -> Iterator[Rule]:
    yield one("token_embd.weight", "transformer.wte.weight")
    yield one("position_embd.weight", "transformer.wpe.weight")
    yield from linear("output_norm", "transformer.ln_f")
    yield from linear("output", "lm_head", optional=True)
    for i in range(config.layers):
        at, hf = f"blk.{i}.", f"transformer.h.{i}."
        yield from linear(f"{at}attn_norm", f"{hf}ln_1")
        yield from linear(f"{at}attn_qkv", f"{hf}attn.c_attn", Transpose())
        yield from linear(f"{at}attn_output", f"{hf}attn.c_proj", Transpose())
        yield from linear(f"{at}ffn_norm", f"{hf}ln_2")
        yield from linear(f"{at}ffn_up", f"{hf}mlp.c_fc", Transpose())
        yield from linear(f"{at}ffn_down", f"{hf}mlp.c_proj", Transpose())


checkpoint = Checkpoint(
    classes=("GPT2LMHeadModel", "GPT2Model"),
    model_type="gpt2",
    items=(
        Field("block_count", "n_layer|num_hidden_layers", least=1),
        Field("context_length", "n_positions|n_ctx|max_position_embeddings", least=1),
        Field("embedding_length", "n_embd|hidden_size", least=1),
        Derived(_keys, _n_inner),
        Field("attention.head_count", "n_head|num_attention_heads", least=1),
        Field("attention.layer_norm_epsilon", "layer_norm_epsilon", "number", default=1e-5),
        activation(*GELU),
    ),
    rules=_rules,
    defaults={"tie_word_embeddings": True},
    anchor="transformer.|wte.weight",
    ignored=(r"attn\.(masked_)?bias$",),
)
