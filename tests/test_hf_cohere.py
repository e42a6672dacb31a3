"""Checkpoints of Command R and of Cohere 2, against transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import hf
import pytest
from hf import VOCABULARY, transformers

pytestmark = pytest.mark.oracle

SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY, "hidden_size": 128, "intermediate_size": 96, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 128, "pad_token_id": 0,
}  # fmt: skip


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"use_qk_norm": True, "num_key_value_heads": 4, "rope_theta": 75000.0},
        {"attention_bias": True, "num_key_value_heads": 1, "logit_scale": 0.8},
        {"tie_word_embeddings": False},
    ],
    ids=["plain", "norms of heads", "biases", "untied"],
)
def test_command_r(tmp_path: Path, changes: Any) -> None:
    hf.check(tmp_path, transformers.CohereConfig(**{**SIZES, **changes}))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"num_key_value_heads": 1, "attention_bias": True},
        {"layer_types": [*["full_attention", "sliding_attention"] * 2, "full_attention"]},
    ],
    ids=["plain", "biases", "layers"],
)
def test_cohere2(tmp_path: Path, changes: Any) -> None:
    given = {**SIZES, "num_hidden_layers": 5, "sliding_window": 16, **changes}
    hf.check(tmp_path, transformers.Cohere2Config(**given))
