"""Checkpoints of EXAONE 4, against transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import hf
import pytest
from hf import VOCABULARY, transformers

from ggufpy.convert import ConvertOptions, convert

pytestmark = pytest.mark.oracle

SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY, "hidden_size": 128, "intermediate_size": 96, "num_hidden_layers": 5,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 128, "sliding_window": 16,
}  # fmt: skip
LLAMA3 = {"rope_type": "llama3", "rope_theta": 1e6, "factor": 16.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 32}  # fmt: skip
NONE = {"sliding_window": None, "layer_types": ["full_attention"] * 5}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"tie_word_embeddings": True, "num_key_value_heads": 1, "rope_parameters": LLAMA3},
        {"layer_types": [*["full_attention", "sliding_attention"] * 2, "sliding_attention"]},
        {**NONE, "rope_parameters": LLAMA3},
        {**NONE, "rope_parameters": {"rope_type": "yarn", "rope_theta": 1e6, "factor": 4.0, "attention_factor": 0.6,
                                     "original_max_position_embeddings": 32}},
    ],
    ids=["plain", "tied, scaled", "layers", "no window", "yarn with a factor"],
)  # fmt: skip
def test_exaone4(tmp_path: Path, changes: Any) -> None:
    hf.check(tmp_path, transformers.Exaone4Config(**{**SIZES, **changes}))


def test_layers_in_letters(tmp_path: Path) -> None:
    hf.checkpoint(tmp_path / "hf", transformers.Exaone4Config(**SIZES))
    convert(tmp_path / "hf", tmp_path / "a.gguf", ConvertOptions("F32", no_vocab=True))
    hf.config_json(tmp_path / "hf", layer_types=None, sliding_window_pattern="LLLG")
    convert(tmp_path / "hf", tmp_path / "b.gguf", ConvertOptions("F32", no_vocab=True))
    assert (tmp_path / "a.gguf").read_bytes() == (tmp_path / "b.gguf").read_bytes()
