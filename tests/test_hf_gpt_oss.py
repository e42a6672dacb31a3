"""Checkpoints of gpt-oss, against transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import hf
import pytest
from hf import VOCABULARY, transformers

pytestmark = pytest.mark.oracle

SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY, "hidden_size": 64, "intermediate_size": 32, "num_hidden_layers": 4,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32, "max_position_embeddings": 128,
    "num_local_experts": 6, "num_experts_per_tok": 2, "sliding_window": 16,
    "rope_parameters": {"rope_type": "yarn", "rope_theta": 150000.0, "factor": 32.0, "beta_fast": 32.0,
                        "beta_slow": 1.0, "truncate": False, "original_max_position_embeddings": 64},
}  # fmt: skip


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"tie_word_embeddings": True, "num_key_value_heads": 1},
        {"rope_parameters": {**SIZES["rope_parameters"], "truncate": True}},
        {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}},
        {"layer_types": ["full_attention", "sliding_attention", "sliding_attention", "full_attention"]},
    ],
    ids=["plain", "tied", "truncated", "unscaled", "layers"],
)
def test_gpt_oss(tmp_path: Path, changes: Any) -> None:
    keys = hf.check(tmp_path, transformers.GptOssConfig(**{**SIZES, **changes}), seed=1)
    assert keys["general.architecture"] == "gpt-oss"
