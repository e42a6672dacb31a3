"""EmbeddingGemma: Gemma 3's layers, whose tokens see what follows them, too, and no logits.

Layers with a window see half of it to each side. Behind the pooling a text's row goes through two matrices, which
sentence-transformers has in folders of their own. Facts: src/models/gemma-embedding.cpp and conversion/gemma.py of
llama.cpp, whose converter leaves these matrices out unless it is told.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from .base import Inventory, Keys
from .checkpoint import Checkpoint, Derived, HfConfig, Rule, Written
from .encoders import DENSE_LAYERS, dense_rules, read_dense
from .gemma import LM_HEAD
from .gemma2 import layer_between_norms
from .gemma3 import ITEMS, TEXT_DEFAULTS, rules, sights
from .llama import read_config
from .op import Op
from .parts import Ends, Layer, model
from .plan import Plan
from .rules import POOLED
from .source import TensorTable

NAME = "gemma-embedding"


def plan(keys: Keys, tensors: TensorTable) -> Plan:
    """The forward pass of the file that `keys` and `tensors` describe. Raises GGUFError for what does not fit."""
    c, table = read_config(keys), Inventory(tensors)
    sight = sights(keys, c, table, causal=False)
    dense = read_dense(keys, table, c.width)

    def layer(at: Layer) -> Iterator[Op]:
        at.must_have_head_norms()
        yield from layer_between_norms(at, sight[at.i])

    return replace(model(c, table, layer, Ends(c.width**0.5, encodes=True)), dense=dense)


def _rules(config: HfConfig) -> Iterator[Rule]:
    yield from rules(config)
    yield from dense_rules(config)


def _config(file: Written) -> Mapping[str, Any]:
    return {"use_bidirectional_attention": True}


def _sees_all(config: HfConfig) -> bool:
    return config.flag("use_bidirectional_attention")


checkpoint = Checkpoint(
    classes=("Gemma3TextModel", "Gemma3ForCausalLM"),
    model_type="gemma3_text",
    items=(*ITEMS, POOLED, DENSE_LAYERS, Derived(back=_config)),
    rules=_rules,
    ignored=(*Checkpoint.ignored, LM_HEAD),
    claims=_sees_all,
    defaults=TEXT_DEFAULTS,
)
