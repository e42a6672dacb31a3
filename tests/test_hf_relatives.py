"""Checkpoints of llama's relatives, SmolLM 3, OLMo 2 and 3 and Granite, against transformers."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import hf
import pytest
from hf import VOCABULARY, transformers

from ggufpy.convert import ConvertOptions, convert
from ggufpy.errors import GGUFError

pytestmark = pytest.mark.oracle

SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 4,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 128, "pad_token_id": 0,
}  # fmt: skip
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"no_rope_layers": [0, 1, 1, 0], "tie_word_embeddings": False, "attention_bias": True},
        {"no_rope_layer_interval": 2, "use_sliding_window": True, "sliding_window": 8, "rope_scaling": YARN},
    ],
    ids=["plain", "other layers", "windows"],
)
def test_smollm3(tmp_path: Path, changes: Any) -> None:
    hf.check(tmp_path, transformers.SmolLM3Config(**deepcopy({**SIZES, **changes})))


def test_smollm3_with_layers_that_are_not_there(tmp_path: Path) -> None:
    hf.checkpoint(tmp_path / "hf", transformers.SmolLM3Config(**SIZES))
    hf.config_json(tmp_path / "hf", no_rope_layers=[1, 2])
    with pytest.raises(GGUFError, match="it must have 0 or 1 for each of 4 layers"):
        convert(tmp_path / "hf", tmp_path / "m.gguf", ConvertOptions("F32", no_vocab=True))


@pytest.mark.parametrize("changes", [{}, {"num_key_value_heads": 1, "rope_scaling": YARN}], ids=["plain", "yarn"])
def test_olmo2(tmp_path: Path, changes: Any) -> None:
    hf.check(tmp_path, transformers.Olmo2Config(**deepcopy({**SIZES, **changes})))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"rope_parameters": {"full_attention": {**YARN, "rope_theta": 5e4},
                             "sliding_attention": {"rope_type": "default", "rope_theta": 5e4}},
         "layer_types": ["full_attention", "sliding_attention"] * 2},
    ],
    ids=["plain", "yarn"],
)  # fmt: skip
def test_olmo3(tmp_path: Path, changes: Any) -> None:
    hf.check(tmp_path, transformers.Olmo3Config(**deepcopy({**SIZES, "sliding_window": 8, **changes})))


FACTORS = {"attention_multiplier": 0.1, "embedding_multiplier": 6.0, "residual_multiplier": 0.3, "logits_scaling": 3.0}


@pytest.mark.parametrize("changes", [FACTORS, {**FACTORS, "attention_bias": True, "tie_word_embeddings": True}, {}],
                         ids=["factors", "biases", "plain"])  # fmt: skip
def test_granite(tmp_path: Path, changes: Any) -> None:
    hf.check(tmp_path, transformers.GraniteConfig(**{**SIZES, **changes}))


EXPERTS = {**SIZES, **FACTORS, "num_local_experts": 6, "num_experts_per_tok": 2}


def test_granitemoe(tmp_path: Path) -> None:
    hf.check(tmp_path, transformers.GraniteMoeConfig(**EXPERTS))


def test_granitemoeshared(tmp_path: Path) -> None:
    hf.check(tmp_path, transformers.GraniteMoeSharedConfig(**EXPERTS, shared_intermediate_size=40))
