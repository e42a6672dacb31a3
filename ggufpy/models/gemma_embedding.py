"""EmbeddingGemma: Gemma 3's layers, whose tokens see what follows them, too, and no logits.

Layers with a window see half of it to each side. Facts: src/models/gemma-embedding.cpp and conversion/gemma.py of
llama.cpp. The dense layers that sentence-transformers puts behind the pooling are not part of the model here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from ggufpy.errors import GGUFError

from .base import Inventory, Keys
from .checkpoint import Checkpoint, Derived, HfConfig, Written
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
    if any(f"dense_{i}.weight" in table for i in (2, 3)):
        raise GGUFError("the file has dense layers behind the pooling, which ggufpy does not run: convert it without")
    sight = sights(keys, c, table, causal=False)

    def layer(at: Layer) -> Iterator[Op]:
        at.must_have_head_norms()
        yield from layer_between_norms(at, sight[at.i])

    return model(c, table, layer, Ends(c.width**0.5, encodes=True))


def _config(file: Written) -> Mapping[str, Any]:
    return {"use_bidirectional_attention": True}


def _sees_all(config: HfConfig) -> bool:
    return config.flag("use_bidirectional_attention")


checkpoint = Checkpoint(
    classes=("Gemma3TextModel", "Gemma3ForCausalLM"),
    model_type="gemma3_text",
    items=(*ITEMS, POOLED, Derived(back=_config)),
    rules=rules,
    ignored=(*Checkpoint.ignored, LM_HEAD),
    claims=_sees_all,
    defaults=TEXT_DEFAULTS,
)
