"""BERT, RoBERTa and XLM-RoBERTa: learned positions, all tokens see each other, a norm behind every part.

Facts: src/models/bert.cpp and conversion/bert.py of llama.cpp. RoBERTa's positions begin behind its padding token:
the rows before are left out of a file.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ggufpy.errors import GGUFError
from ggufpy.format.rows import Joined, Numbers, Plain, Rows, Window
from ggufpy.format.values import Typed

from .base import Inventory, Keys
from .checkpoint import SIZES, Checkpoint, Derived, Field, HfConfig, Rule, Written, linear, one, u32
from .encoders import POOLING, after, class_of_heads, classifier_rules, encoder
from .llama import read_config
from .parts import LAYER_EPS, Ends
from .plan import Plan
from .source import TensorTable

_ROBERTA = ("RobertaModel", "RobertaForSequenceClassification", "RobertaForMaskedLM", "XLMRobertaModel",
            "XLMRobertaForSequenceClassification", "XLMRobertaForMaskedLM", "CamembertModel")  # fmt: skip


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


def _context(config: HfConfig) -> Mapping[str, Typed]:
    return {"context_length": u32(config.count("max_position_embeddings") - _padded(config))}


def _rules(config: HfConfig) -> Iterator[Rule]:
    yield one("token_embd.weight", "embeddings.word_embeddings.weight")
    yield one("position_embd.weight", "embeddings.position_embeddings.weight", Behind(_padded(config)))
    yield one("token_types.weight", "embeddings.token_type_embeddings.weight", optional=True)
    yield from _norm("token_embd_norm", "embeddings.LayerNorm")
    if any(str(name).endswith("ForSequenceClassification") for name in config.items("architectures", [])):
        yield from classifier_rules(("classifier.dense", "pooler.dense"), ("classifier.out_proj", "classifier"))
    for i in range(config.layers):
        at, hf = f"blk.{i}.", f"encoder.layer.{i}."
        for name, part in (("q", "query"), ("k", "key"), ("v", "value")):
            yield from linear(f"{at}attn_{name}", f"{hf}attention.self.{part}")
        yield from linear(f"{at}attn_output", f"{hf}attention.output.dense")
        yield from _norm(f"{at}attn_output_norm", f"{hf}attention.output.LayerNorm")
        yield from linear(f"{at}ffn_up", f"{hf}intermediate.dense")
        yield from linear(f"{at}ffn_down", f"{hf}output.dense")
        yield from _norm(f"{at}layer_output_norm", f"{hf}output.LayerNorm")


def _norm(gguf: str, hf: str) -> Iterator[Rule]:
    """A norm, whose weight and bias older checkpoints call gamma and beta."""
    yield one(f"{gguf}.weight", f"{hf}.weight", optional=True)
    yield one(f"{gguf}.bias", f"{hf}.bias", optional=True)
    yield one(f"{gguf}.weight", f"{hf}.gamma")
    yield one(f"{gguf}.bias", f"{hf}.beta")


def _activation(config: HfConfig) -> Mapping[str, Typed]:
    """Raises GGUFError for a feed-forward part that is not of gelu."""
    if config.text("hidden_act", "gelu") not in ("gelu", "gelu_new", "gelu_fast", "gelu_pytorch_tanh"):
        raise GGUFError(f"config.json: hidden_act is {config.text('hidden_act')!r}; ggufpy runs gelu in this family")
    return {}


def _said(file: Written) -> Mapping[str, Any]:
    types = file.tensors.get("token_types.weight")
    return {"hidden_act": "gelu", "type_vocab_size": 0 if types is None else types.shape[0]}


checkpoint = Checkpoint(
    classes=("BertModel", "BertForMaskedLM", "BertForSequenceClassification", "BertForPreTraining", *_ROBERTA),
    model_type="bert",
    items=(
        *SIZES,
        Derived(_context),
        Field("attention.layer_norm_epsilon", "layer_norm_eps", "number", default=1e-12),
        Derived(_activation, _said),
        POOLING,
        class_of_heads("Bert"),
    ),
    rules=_rules,
    anchor="|embeddings.word_embeddings.weight",
    ignored=(r"position_ids$", r"^(bert\.|roberta\.)?pooler\.", r"^cls\.", r"^lm_head\."),
)
