"""Checkpoints of llama and what shares its layers, against transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import hf
import pytest
from hf import VOCABULARY, transformers

pytestmark = pytest.mark.oracle

SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 128,
}  # fmt: skip


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"tie_word_embeddings": True, "num_key_value_heads": 4},
        {"attention_bias": True, "mlp_bias": True},
        {"head_dim": 32, "rope_theta": 500000.0, "rms_norm_eps": 1e-5},
        {"rope_scaling": {"rope_type": "linear", "factor": 2.0}},
        {"rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                          "original_max_position_embeddings": 32}},
        {"rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}},
    ],
    ids=["plain", "tied", "biases", "heads", "linear", "llama3", "yarn"],
)  # fmt: skip
def test_llama(tmp_path: Path, changes: Any) -> None:
    hf.check(tmp_path, transformers.LlamaConfig(**{**SIZES, **changes}))


def test_mistral(tmp_path: Path) -> None:
    hf.check(tmp_path, transformers.MistralConfig(**SIZES, sliding_window=16))
