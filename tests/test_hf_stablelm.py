"""Checkpoints of StableLM, against transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import hf
import pytest
from hf import VOCABULARY, transformers

pytestmark = pytest.mark.oracle

SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY, "hidden_size": 128, "intermediate_size": 96, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 128, "bos_token_id": 0,
    "eos_token_id": 0,
}  # fmt: skip


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"use_qkv_bias": True, "tie_word_embeddings": True, "num_key_value_heads": 1, "partial_rotary_factor": 1.0},
        {"use_parallel_residual": True, "qk_layernorm": True, "num_key_value_heads": 4, "partial_rotary_factor": 0.5},
    ],
    ids=["plain", "biases", "parallel, norms of heads"],
)
def test_stablelm(tmp_path: Path, changes: Any) -> None:
    hf.check(tmp_path, transformers.StableLmConfig(**{**SIZES, **changes}))
