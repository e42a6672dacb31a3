"""ModernBERT: norms before parts, rotary positions, most layers with a window both ways, gate and up in one matrix.

Layer 0 has no norm before its attention. Layers with a window turn by a base of their own. Facts:
src/models/modern-bert.cpp and conversion/bert.py of llama.cpp.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from ggufpy.errors import GGUFError
from ggufpy.format.values import Typed

from .base import Inventory, Keys
from .checkpoint import (
    SIZES,
    VOCABULARY,
    Checkpoint,
    Derived,
    Field,
    HfConfig,
    Rule,
    Written,
    f32,
    linear,
    one,
    shortest,
    u32,
)
from .encoders import POOLING, class_of_heads, classifier_rules, encoder
from .llama import read_config, read_rope
from .op import Op
from .parts import LAYER_EPS, Activation, Ends, Layer
from .plan import Plan
from .source import TensorTable

NAME = "modern-bert"
PERIOD = 3  # of layers, the first of which sees everything
_ACTIVATIONS: Mapping[str, Activation] = {"gelu": "gelu_erf", "silu": "silu"}


def plan(keys: Keys, tensors: TensorTable) -> Plan:
    """The forward pass of the file that `keys` and `tensors` describe. Raises GGUFError for what does not fit."""
    c, table = read_config(keys, eps=LAYER_EPS), Inventory(tensors)
    whole = replace(read_rope(keys, c, table), neox=True)
    near = replace(whole, base=keys.number("rope.freq_base_swa", whole.base, (1.5, 1e12)))
    every = keys.count("attention.sliding_window_pattern", PERIOD)
    said = keys.text("hidden_act", "gelu")
    if said not in _ACTIVATIONS:
        raise GGUFError(f"{NAME}.hidden_act is {said[:40]!r}; ggufpy runs {' and '.join(_ACTIVATIONS)}")

    def layer(at: Layer) -> Iterator[Op]:
        window = c.window if at.i % every else 0
        first = at.i == 0 and "attn_norm.weight" not in at
        if not first:
            yield at.norm("attn_norm")
        yield from at.qkv("x" if first else "norm")
        yield from at.rotate(near if window else whole)
        yield from at.attend(window, causal=False)
        yield at.output()
        yield at.norm("ffn_norm")
        yield from at.feed_forward(kind=_ACTIVATIONS[said])

    return encoder(c, table, keys, layer, Ends(), "gelu")


def _rules(config: HfConfig) -> Iterator[Rule]:
    yield one("token_embd.weight", "embeddings.tok_embeddings.weight")
    yield from linear("token_embd_norm", "embeddings.norm")
    yield from linear("output_norm", "final_norm")
    if any(str(name).endswith("ForSequenceClassification") for name in config.items("architectures", [])):
        yield from classifier_rules(("head.dense",), ("classifier",))
        yield one("cls.norm.weight", "head.norm.weight", optional=True)
    for i in range(config.layers):
        at, hf = f"blk.{i}.", f"layers.{i}."
        yield from linear(f"{at}attn_norm", f"{hf}attn_norm", optional=i == 0)
        yield from linear(f"{at}attn_qkv", f"{hf}attn.Wqkv")
        yield from linear(f"{at}attn_output", f"{hf}attn.Wo")
        yield from linear(f"{at}ffn_norm", f"{hf}mlp_norm")
        yield from linear(f"{at}ffn_up", f"{hf}mlp.Wi")
        yield from linear(f"{at}ffn_down", f"{hf}mlp.Wo")


def _bases(config: HfConfig) -> tuple[float, float]:
    """Of layers that see everything, and of those with a window."""
    whole = config.rope("full_attention").number("rope_theta", config.number("global_rope_theta", 160000.0))
    near = config.rope("sliding_attention").number("rope_theta", config.number("local_rope_theta", 10000.0))
    return whole, near


def _keys(config: HfConfig) -> Mapping[str, Typed]:
    whole, near = _bases(config)
    every = config.count("global_attn_every_n_layers", _period(config))
    keys = {
        "attention.sliding_window": u32(config.count("local_attention", 128)),
        "attention.sliding_window_pattern": u32(every),
        "rope.scaling.type": Typed("string", "none"),
        "rope.freq_base": f32(whole),
        "rope.freq_base_swa": f32(near),
        "hidden_act": Typed("string", config.text("hidden_activation", "gelu")),
    }
    if "classifier_pooling" in config:
        kinds = {"mean": 1, "cls": 2}
        kind = config.text("classifier_pooling")
        if kind not in kinds:
            raise GGUFError(f"config.json: classifier_pooling is {kind[:40]!r}; ggufpy knows cls and mean")
        keys["classifier.pooling_type"] = u32(kinds[kind])
    return keys


def _period(config: HfConfig) -> int:
    """Of config.json's layer_types: layers that see everything come every so often, the first among them."""
    types = config.items("layer_types", [])
    whole = [i for i, kind in enumerate(types) if kind == "full_attention"]
    if not whole:
        return PERIOD
    every = whole[1] if len(whole) > 1 else len(types)
    if whole != list(range(0, len(types), every)):
        raise GGUFError("config.json: layer_types is no regular pattern, which this architecture must have")
    return every


def _config(file: Written) -> Mapping[str, Any]:
    every, layers = int(file.keys.get("attention.sliding_window_pattern", PERIOD)), int(file.keys["block_count"])
    bases = [shortest(file.keys.get(f"rope.freq_base{end}", base)) for end, base in (("", 160000.0), ("_swa", 10000.0))]
    return {
        "local_attention": int(file.keys.get("attention.sliding_window", 0)), "global_attn_every_n_layers": every,
        "layer_types": ["sliding_attention" if i % every else "full_attention" for i in range(layers)],
        "rope_parameters": {
            "full_attention": {"rope_type": "default", "rope_theta": bases[0]},
            "sliding_attention": {"rope_type": "default", "rope_theta": bases[1]},
        },
        "hidden_activation": file.keys.get("hidden_act", "gelu"),
    }  # fmt: skip


checkpoint = Checkpoint(
    classes=("ModernBertModel", "ModernBertForMaskedLM", "ModernBertForSequenceClassification"),
    model_type="modernbert",
    items=(
        *SIZES,
        Field("attention.layer_norm_epsilon", "norm_eps|layer_norm_eps", "number", default=1e-5),
        VOCABULARY,
        Derived(_keys, _config),
        POOLING,
        class_of_heads("ModernBert"),
    ),
    rules=_rules,
    anchor="|embeddings.tok_embeddings.weight",
    ignored=(r"position_ids$", r"^decoder\.", r"^head\."),
)
