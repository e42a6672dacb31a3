"""BitNet b1.58: matrices of -1, 0 and 1 times a number, norms before the last products of attention and feed-forward.

Files of matrices whose number stands apart have it as `attn_q.scale` (1,). The activation is what hidden_activation
says; llama.cpp has silu always, which the first models want, and transformers relu², which those of 2025 want. Facts:
src/models/bitnet.cpp and conversion/bitnet.py of llama.cpp, modeling_bitnet.py of transformers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from ggufpy.errors import GGUFError
from ggufpy.format.values import Typed, shown

from .base import Inventory, Keys
from .checkpoint import RMS, SIZES, VOCABULARY, Checkpoint, Derived, HfConfig, Rule, Written, f32
from .llama import read_config, read_rope
from .op import Op
from .ops import Add, Gate, MatMul, Scale
from .parts import Activation, Layer, model
from .plan import Plan
from .rules import BEFORE, PLAIN_ROPE, attention_rules, end_rules, gated_rules, norm_rules
from .source import TensorTable

ACTIVATION = "hidden_activation"
KINDS: dict[str, Activation] = {"silu": "silu", "relu2": "relu2"}
SUB_NORMS = (("attn_sub_norm", "self_attn.attn_sub_norm"), ("ffn_sub_norm", "mlp.ffn_sub_norm"))


def _product(at: Layer, x: str, name: str, y: str, shape: tuple[int, int]) -> Iterator[Op]:
    """A product, times what the file has of its matrix apart."""
    made: MatMul = at.product(x, name, y, shape)
    yield made
    if f"{name}.scale" in at:
        (factor,) = at.tensors.values(f"blk.{at.i}.{name}.scale", 1).tolist()
        yield Scale(y, shape[0], float(factor))


def plan(keys: Keys, tensors: TensorTable) -> Plan:
    """The forward pass of the file that `keys` and `tensors` describe. Raises GGUFError for what does not fit."""
    c, table = read_config(keys), Inventory(tensors)
    rope = replace(read_rope(keys, c, table), neox=True)
    said = keys.text(ACTIVATION, "silu")
    if said not in KINDS:
        raise GGUFError(f"bitnet.{ACTIVATION} is {shown(said)}; ggufpy knows {' and '.join(KINDS)}")

    def layer(at: Layer) -> Iterator[Op]:
        h, width, hidden = c.heads_of(at.i), c.width, c.hiddens[at.i]
        keys_width, values = h.shared * h.key_length, h.queries * h.value_length
        yield at.norm("attn_norm")
        yield from _product(at, "norm", "attn_q", "q", (h.queries * h.key_length, width))
        yield from _product(at, "norm", "attn_k", "k", (keys_width, width))
        yield from _product(at, "norm", "attn_v", "v", (h.shared * h.value_length, width))
        yield from at.rotate(rope)
        yield from at.attend()
        yield at.norm("attn_sub_norm", "attn", "attn", values)
        yield from _product(at, "attn", "attn_output", "out", (width, values))
        yield Add("out", "x", width)
        yield at.norm("ffn_norm")
        yield from _product(at, "norm", "ffn_gate", "gate", (hidden, width))
        yield from _product(at, "norm", "ffn_up", "up", (hidden, width))
        yield Gate("gate", "up", "ffn", hidden, KINDS[said])
        yield at.norm("ffn_sub_norm", "ffn", "ffn", hidden)
        yield from _product(at, "ffn", "ffn_down", "out", (width, hidden))
        yield Add("out", "x", width)

    return model(c, table, layer)


def _rules(config: HfConfig) -> Iterator[Rule]:
    yield from end_rules()
    for i in range(config.layers):
        yield from norm_rules(i, (*BEFORE, *SUB_NORMS))
        yield from attention_rules(i)
        yield from gated_rules(i)


def _keys(config: HfConfig) -> Mapping[str, Typed]:
    said = config.text("hidden_act", "relu2")
    if said not in KINDS:
        raise GGUFError(f"config.json: hidden_act is {shown(said)}; ggufpy knows {' and '.join(KINDS)}")
    scaling = {"rope.scaling.type": Typed("string", "linear"), "rope.scaling.factor": f32(1.0)}
    return {ACTIVATION: Typed("string", said), **scaling, **PLAIN_ROPE.keys(config)}


def _config(file: Written) -> Mapping[str, Any]:
    said = dict(PLAIN_ROPE.config(file))
    if file.keys.get("rope.scaling.factor") == 1.0:
        said.pop("rope_scaling", None)
    return {**said, "hidden_act": file.keys.get(ACTIVATION, "silu")}


checkpoint = Checkpoint(
    classes=("BitNetForCausalLM", "BitNetModel"),
    model_type="bitnet",
    items=(*SIZES, RMS, VOCABULARY, Derived(_keys, _config)),
    rules=_rules,
    defaults={"max_position_embeddings": 2048, "rms_norm_eps": 1e-5, "rope_theta": 500000.0},
)
