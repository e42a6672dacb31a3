"""Checkpoints of Phi 3 and 4, against transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import hf
import pytest
from hf import VOCABULARY, transformers

from ggufpy.convert import ConvertOptions, convert

pytestmark = pytest.mark.oracle

SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY, "hidden_size": 128, "intermediate_size": 96, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 128, "pad_token_id": 0,
    "original_max_position_embeddings": 128, "eos_token_id": 1, "bos_token_id": 1,
}  # fmt: skip
LONG = {"type": "longrope", "short_factor": [1.0 + 0.05 * i for i in range(16)],
        "long_factor": [1.0 + 0.7 * i for i in range(16)]}  # fmt: skip
LESS = {name: LONG[name][:12] if isinstance(LONG[name], list) else LONG[name] for name in LONG}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"tie_word_embeddings": True, "num_key_value_heads": 1, "rope_theta": 500000.0},
        {"sliding_window": 16},
        {"rope_scaling": LONG, "original_max_position_embeddings": 64},
        {"rope_scaling": LONG, "original_max_position_embeddings": 32},
        {"rope_scaling": LESS, "original_max_position_embeddings": 32, "partial_rotary_factor": 0.75},
    ],
    ids=["plain", "tied", "window", "short", "long", "partial"],
)
def test_phi3(tmp_path: Path, changes: Any) -> None:
    hf.check(tmp_path, transformers.Phi3Config(**{**SIZES, **changes}))


def test_what_older_files_say_of_longrope_is_the_same(tmp_path: Path) -> None:
    changes = {"rope_scaling": LONG, "original_max_position_embeddings": 32}
    hf.checkpoint(tmp_path / "hf", transformers.Phi3Config(**{**SIZES, **changes}))
    convert(tmp_path / "hf", tmp_path / "a.gguf", ConvertOptions("F32", no_vocab=True))
    hf.config_json(tmp_path / "hf", rope_parameters=None, rope_theta=10000.0, **changes)
    convert(tmp_path / "hf", tmp_path / "b.gguf", ConvertOptions("F32", no_vocab=True))
    assert (tmp_path / "a.gguf").read_bytes() == (tmp_path / "b.gguf").read_bytes()
