"""BERT, RoBERTa, XLM-RoBERTa and DistilBERT: learned positions, all tokens see each other, a norm behind every part.

Facts: src/models/bert.cpp and conversion/bert.py of llama.cpp. RoBERTa's positions begin behind its padding token:
the rows before are left out of a file. DistilBERT has no token types, names of its own, norms that always add 1e-12,
and a classifier with relu (transformers, models/distilbert/modeling_distilbert.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from ggufpy.errors import GGUFError
from ggufpy.format.rows import Joined, Numbers, Plain, Rows, Window
from ggufpy.format.values import Typed
from ggufpy.support.records import dataclass

from .base import Inventory, Keys
from .checkpoint import SIZES, Checkpoint, Derived, Field, HfConfig, Rule, Written, linear, one, shortest, u32
from .classifier import FUNCTION
from .encoders import POOLING, after, class_of_heads, classifier_rules, encoder, ranks
from .llama import read_config
from .parts import LAYER_EPS, Ends
from .plan import Plan
from .source import TensorTable

EPS = 1e-12
_ROBERTA = ("RobertaModel", "RobertaForSequenceClassification", "RobertaForMaskedLM", "XLMRobertaModel",
            "XLMRobertaForSequenceClassification", "XLMRobertaForMaskedLM", "CamembertModel")  # fmt: skip
_DISTILBERT = ("DistilBertModel", "DistilBertForMaskedLM", "DistilBertForSequenceClassification")


def plan(keys: Keys, tensors: TensorTable) -> Plan:
    """The forward pass of the file that `keys` and `tensors` describe. Raises GGUFError for what does not fit."""
    c, table = read_config(keys, eps=LAYER_EPS), Inventory(tensors)
    ends = Ends(positions=True, last_norm=False)
    return encoder(c, table, keys, lambda at: after(at, None, lambda at: at.plain_feed_forward("gelu_erf", "x")), ends)


@dataclass(frozen=True)
class Behind:
    """Rows from `first` on; those before, which no token has, come back as zeros."""

    first: int

    def forward(self, tensors: Sequence[Rows]) -> Sequence[Rows]:
        (whole,) = tensors
        rows, width = whole.shape
        if rows <= self.first:
            raise GGUFError(f"{rows} positions, of which the first {self.first} are padding")
        return [Window(whole, self.first, (rows - self.first, width))]

    def backward(self, tensors: Sequence[Rows]) -> Sequence[Rows]:
        (rest,) = tensors
        zeros = Plain(Numbers(np.zeros((self.first, rest.columns), np.float32)), rest.type)
        return [Joined([zeros, rest], (rest.shape[0] + self.first, rest.columns))] if self.first else tensors


def _padded(config: HfConfig) -> int:
    """How many positions stand before the first token's."""
    roberta = config.text("model_type", "bert") in ("roberta", "xlm-roberta", "camembert")
    return config.count("pad_token_id", 1, least=0) + 1 if roberta else 0


def _distil(config: HfConfig) -> bool:
    return config.text("model_type", "bert") == "distilbert"


def _keys(config: HfConfig) -> Mapping[str, Typed]:
    """Positions, and what DistilBERT has otherwise. GGUFError for a feed-forward part that is not of gelu."""
    said = config.text("hidden_act|activation", "gelu")
    if said not in ("gelu", "gelu_new", "gelu_fast", "gelu_pytorch_tanh"):
        raise GGUFError(f"config.json: hidden_act is {said!r}; ggufpy runs gelu in this family")
    keys = {"context_length": u32(config.count("max_position_embeddings") - _padded(config))}
    return {**keys, FUNCTION: Typed("string", "relu")} if _distil(config) and ranks(config) else keys


@dataclass(frozen=True)
class _Names:
    """What a class calls the parts of a layer, and of its classifier: dense and output."""

    layer: str
    parts: Mapping[str, str]
    classifier: tuple[str, str]


_BERT_NAMES = _Names(
    "encoder.layer.{}.",
    {
        "attn_q": "attention.self.query", "attn_k": "attention.self.key", "attn_v": "attention.self.value",
        "attn_output": "attention.output.dense", "attn_output_norm": "attention.output.LayerNorm",
        "ffn_up": "intermediate.dense", "ffn_down": "output.dense", "layer_output_norm": "output.LayerNorm",
    },
    ("pooler.dense", "classifier"),
)  # fmt: skip
_ROBERTA_NAMES = _Names(_BERT_NAMES.layer, _BERT_NAMES.parts, ("classifier.dense", "classifier.out_proj"))
_DISTILBERT_NAMES = _Names(
    "transformer.layer.{}.",
    {
        "attn_q": "attention.q_lin", "attn_k": "attention.k_lin", "attn_v": "attention.v_lin",
        "attn_output": "attention.out_lin", "attn_output_norm": "sa_layer_norm", "ffn_up": "ffn.lin1",
        "ffn_down": "ffn.lin2", "layer_output_norm": "output_layer_norm",
    },
    ("pre_classifier", "classifier"),
)  # fmt: skip
_ALL_NAMES = (_BERT_NAMES, _ROBERTA_NAMES, _DISTILBERT_NAMES)


def _names(config: HfConfig) -> _Names:
    if _distil(config):
        return _DISTILBERT_NAMES
    return _ROBERTA_NAMES if _padded(config) else _BERT_NAMES


def _rules(config: HfConfig) -> Iterator[Rule]:
    names = _names(config)
    yield one("token_embd.weight", "embeddings.word_embeddings.weight")
    yield one("position_embd.weight", "embeddings.position_embeddings.weight", Behind(_padded(config)))
    yield one("token_types.weight", "embeddings.token_type_embeddings.weight", optional=True)
    yield from _norm("token_embd_norm", "embeddings.LayerNorm")
    if ranks(config):
        dense, output = zip(*(which.classifier for which in (names, *_ALL_NAMES)), strict=True)
        yield from classifier_rules(dense, output)
    for i in range(config.layers):
        for name, part in names.parts.items():
            gguf, hf = f"blk.{i}.{name}", names.layer.format(i) + part
            yield from _norm(gguf, hf) if name.endswith("_norm") else linear(gguf, hf)


def _norm(gguf: str, hf: str) -> Iterator[Rule]:
    """A norm, whose weight and bias older checkpoints call gamma and beta."""
    yield one(f"{gguf}.weight", f"{hf}.weight", optional=True)
    yield one(f"{gguf}.bias", f"{hf}.bias", optional=True)
    yield one(f"{gguf}.weight", f"{hf}.gamma")
    yield one(f"{gguf}.bias", f"{hf}.beta")


def _said(file: Written) -> Mapping[str, Any]:
    """The class that a file comes back as: BERT, or without token types DistilBERT.

    Raises GGUFError for a file that is neither.
    """
    heads = [name for name in ("cls.weight", "cls.output.weight") if name in file.tensors]
    if len(heads) == 1:
        raise GGUFError(f"the file has a classifier of {heads[0]} alone, which no class of transformers has")
    types = file.tensors.get("token_types.weight")
    relu = file.keys.get(FUNCTION) == "relu"
    if types is not None:
        if relu:
            raise GGUFError("the classifier has relu beside token types, which no class of transformers has")
        return {"hidden_act": "gelu", "type_vocab_size": types.shape[0], **class_of_heads("Bert").config(file)}
    if shortest(file.keys.get("attention.layer_norm_epsilon", EPS)) != EPS or bool(heads) != relu:
        raise GGUFError("the file has no token types, and is not DistilBERT otherwise: no class of transformers is so")
    sizes = {"dim": "embedding_length", "n_layers": "block_count", "n_heads": "attention.head_count",
             "hidden_dim": "feed_forward_length"}  # fmt: skip
    said = {name: int(file.keys[key]) for name, key in sizes.items()}
    classes = {"architectures": ["DistilBertModel"], **class_of_heads("DistilBert").config(file)}
    return {**said, "model_type": "distilbert", "activation": "gelu", **classes}


checkpoint = Checkpoint(
    classes=("BertModel", "BertForMaskedLM", "BertForSequenceClassification", "BertForPreTraining", *_ROBERTA,
             *_DISTILBERT),
    model_type="bert",
    items=(
        *SIZES,
        Field("feed_forward_length", "intermediate_size|hidden_dim", default=None),
        Field("attention.layer_norm_epsilon", "layer_norm_eps", "number", default=EPS),
        Derived(_keys, _said),
        POOLING,
    ),
    rules=_rules,
    anchor="|embeddings.word_embeddings.weight",
    ignored=(r"position_ids$", r"^(bert\.|roberta\.)?pooler\.", r"^cls\.", r"^lm_head\.", r"^vocab_"),
)  # fmt: skip
