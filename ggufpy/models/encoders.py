"""What encoders have in common: tokens see the whole text, norms come after each part, and there are no logits.

Facts: src/models/bert.cpp of llama.cpp, and build_pooling in its src/llama-graph.cpp.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from ggufpy.errors import GGUFError
from ggufpy.format.values import Typed
from ggufpy.support import checks

from .base import POOLINGS, Inventory, Keys
from .checkpoint import Derived, HfConfig, Rule, Written, linear, one, u32
from .classifier import Activation, read_classifier
from .llama import Config
from .op import Op, Weight
from .ops import Norm, Rope
from .parts import Ends, Layer, model
from .plan import Plan, Pooling
from .rules import POOLED

Part = Callable[[Layer], Iterator[Op]]


def first_norm(at: Layer, table: Inventory) -> Iterator[Op]:
    """The norm of embeddings, before layer 0."""
    if at.i == 0:
        weight = table.weight("token_embd_norm.weight", at.c.width)
        bias = table.optional("token_embd_norm.bias", at.c.width)
        yield Norm("x", weight, "x", at.c.eps, kind="layer", bias=bias)


def after(at: Layer, rope: Rope | None, feed_forward: Part) -> Iterator[Op]:
    """A layer with its norms behind attention and behind the feed-forward part, which both read x itself."""
    yield from at.qkv("x")
    if rope is not None:
        yield from at.rotate(rope)
    yield from at.attend(causal=False)
    yield at.output()
    yield at.norm("attn_output_norm", y="x")
    yield from feed_forward(at)
    yield at.norm("layer_output_norm", y="x")


def encoder(c: Config, table: Inventory, keys: Keys, make: Part, ends: Ends, activation: Activation = "tanh") -> Plan:
    """A plan without logits, with what makes scores, by `activation`, where the file has such tensors."""
    classifier = read_classifier(keys, table, c.width, activation)
    if classifier is not None:
        unsaid: Pooling = "mean" if activation == "gelu" else "cls"  # as llama.cpp takes it
        classifier = replace(classifier, pooled=_pooled(keys, unsaid))
    made = model(c, table, lambda at: (*first_norm(at, table), *make(at)), replace(ends, kind="layer", encodes=True))
    return replace(made, classifier=classifier)


def _pooled(keys: Keys, unsaid: Pooling) -> Pooling:
    """Of which row scores are made. Raises GGUFError for a kind that makes none."""
    kind = keys.pooling("classifier.pooling_type") or unsaid
    if kind in ("none", "rank"):
        number = POOLINGS.index(kind)
        raise GGUFError(f"{keys.architecture}.classifier.pooling_type is {number} ({kind}), which is no row")
    return kind


def _pooling_keys(config: HfConfig) -> Mapping[str, Typed]:
    """How a text's rows become one: as the folder says, and by rank where there is a classifier.

    Tokens see the whole text. Raises GGUFError for labels that are no texts.
    """
    keys: dict[str, Typed] = {"attention.causal": Typed("bool", False)}
    if not ranks(config):
        return {**keys, **POOLED.keys(config)}
    keys["pooling_type"] = u32(POOLINGS.index("rank"))
    keys["classifier.output_labels"] = Typed("array[string]", _labels(config))
    return keys


def ranks(config: HfConfig) -> bool:
    """Whether the model has a classifier."""
    return any(str(name).endswith("ForSequenceClassification") for name in config.items("architectures", []))


def _labels(config: HfConfig) -> list[str]:
    """A classifier's labels; as many as transformers takes for granted where config.json names none."""
    said = config.mapping("id2label")
    if not said:
        return [f"LABEL_{i}" for i in range(config.count("num_labels", 2))]
    if not all(str(i).isascii() and str(i).isdigit() and isinstance(label, str) for i, label in said.items()):
        raise GGUFError(f"config.json: id2label is {checks.shown(said)}; it must have texts by their numbers")
    return [label for _, label in sorted(said.items(), key=lambda item: int(item[0]))]


def _pooling_config(file: Written) -> Mapping[str, Any]:
    if "cls.output.weight" not in file.tensors:
        return POOLED.config(file)
    labels = file.keys.get("classifier.output_labels", ["LABEL_0"])
    return {"id2label": {str(i): label for i, label in enumerate(labels)}}


POOLING = Derived(_pooling_keys, _pooling_config)


def class_of_heads(model: str) -> Derived:
    """`model`ForSequenceClassification where there is a classifier."""

    def back(file: Written) -> Mapping[str, Any]:
        return {"architectures": [f"{model}ForSequenceClassification"]} if "cls.output.weight" in file.tensors else {}

    return Derived(back=back)


def classifier_rules(dense: tuple[str, ...], output: tuple[str, ...]) -> Iterator[Rule]:
    """What makes scores of a pooled row: its tensors may be called in several ways, of which the first is exported."""
    for hf in output:
        yield from linear("cls.output", hf, optional=True)
    for hf in dense:
        yield from linear("cls", hf, optional=True)


# -- dense layers behind the pooling -------------------------------------------------------------------------------

# What sentence-transformers has as 2_Dense and 3_Dense, in llama.cpp's names (conversion/gemma.py, build_dense_out in
# src/llama-graph.cpp): y = weight · x, without a bias or a function behind it.
DENSE = ("dense_2", "dense_3")


def read_dense(keys: Keys, tensors: Inventory, width: int) -> tuple[Weight, ...]:
    """The matrices that a text's row of `width` goes through, in order. Raises GGUFError for those that do not fit."""
    weights: list[Weight] = []
    for name in DENSE:
        if f"{name}.weight" in tensors:
            rows = keys.count(f"{name}_feat_out")
            weights.append(tensors.weight(f"{name}.weight", rows, width))
            width = rows
    return tuple(weights)


def dense_layers(config: HfConfig) -> list[HfConfig]:
    """What the folder has of such layers (`convert/sentence.py`): path, in_features, out_features, bias, activation."""
    return [HfConfig(checks.mapping("sentence_dense", layer)) for layer in config.items("sentence_dense", [])]


def _sayable(config: HfConfig) -> list[HfConfig]:
    """All of them, or none where a file cannot say one of them."""
    layers = dense_layers(config)
    plain = all(layer.text("activation") == "Identity" and not layer.flag("bias") for layer in layers)
    return layers if plain and len(layers) <= len(DENSE) else []


def dense_rules(config: HfConfig) -> Iterator[Rule]:
    for name, layer in zip(DENSE, _sayable(config), strict=False):
        yield one(f"{name}.weight", f"{layer.text('path')}.linear.weight")


def _dense_keys(config: HfConfig) -> Mapping[str, Typed]:
    keys: dict[str, Typed] = {}
    rows = config.width
    for name, layer in zip(DENSE, _sayable(config), strict=False):
        rows = layer.count("out_features")
        keys |= {f"{name}_feat_in": u32(layer.count("in_features")), f"{name}_feat_out": u32(rows)}
    return keys if rows == config.width else {**keys, "embedding_length_out": u32(rows)}


def _dense_config(file: Written) -> Mapping[str, Any]:
    """Raises GGUFError for a second layer without a first: sentence-transformers' are numbered as they follow."""
    there = [name for name in DENSE if f"{name}.weight" in file.tensors]
    if there == [DENSE[1]]:
        raise GGUFError(f"the file has {DENSE[1]}.weight without {DENSE[0]}.weight, which no checkpoint has")
    layers = []
    for i, name in enumerate(there):
        columns = file.tensors[f"{name}.weight"].shape[-1]
        sizes = {"in_features": columns, "out_features": int(file.keys[f"{name}_feat_out"])}
        layers.append({"path": f"{i + 2}_Dense", **sizes, "bias": False, "activation": "Identity"})
    return {"sentence_dense": layers} if layers else {}


DENSE_LAYERS = Derived(_dense_keys, _dense_config)
