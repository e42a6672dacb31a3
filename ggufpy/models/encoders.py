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
from .checkpoint import Derived, HfConfig, Rule, Written, linear, u32
from .classifier import Activation, read_classifier
from .llama import Config
from .op import Op
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


def encoder(
    c: Config, table: Inventory, keys: Keys, make: Part, ends: Ends, activation: Activation = "tanh"
) -> Plan:
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
