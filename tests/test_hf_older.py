"""Checkpoints of GPT-2, StarCoder 2 and Falcon against transformers."""

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


@pytest.mark.parametrize("inner", [None, 160])
def test_gpt2(tmp_path: Path, inner: int | None) -> None:
    config = transformers.GPT2Config(
        vocab_size=VOCABULARY, n_embd=64, n_layer=2, n_head=4, n_positions=64, n_inner=inner, bos_token_id=1,
        eos_token_id=2,
    )  # fmt: skip
    hf.check(tmp_path, config)


@pytest.mark.parametrize("changes", [{}, {"use_bias": False}, {"sliding_window": 16, "rope_theta": 1e5}],
                         ids=["biases", "none", "window"])  # fmt: skip
def test_starcoder2(tmp_path: Path, changes: Any) -> None:
    config = transformers.Starcoder2Config(**{**SIZES, "bos_token_id": 1, "eos_token_id": 2, **changes})
    hf.check(tmp_path, config)


@pytest.mark.parametrize(
    "changes",
    [
        {"multi_query": True, "new_decoder_architecture": False},
        {"new_decoder_architecture": True, "num_kv_heads": 2},
        {"multi_query": False, "new_decoder_architecture": False, "bias": True},
        {"new_decoder_architecture": True, "num_kv_heads": 2, "rope_scaling": {"rope_type": "linear", "factor": 2.0}},
    ],
    ids=["7B", "40B", "heads", "linear"],
)
def test_falcon(tmp_path: Path, changes: Any) -> None:
    config = transformers.FalconConfig(
        vocab_size=VOCABULARY, hidden_size=128, num_hidden_layers=2, num_attention_heads=4, parallel_attn=True,
        alibi=False, bos_token_id=1, eos_token_id=2, **changes,
    )  # fmt: skip
    hf.check(tmp_path, config)
