"""Checkpoints of Qwen 2 and 3, against transformers."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import hf
import numpy as np
import pytest
from hf import VOCABULARY, transformers

from ggufpy import format as gguf
from ggufpy.convert import ConvertOptions, convert
from ggufpy.errors import GGUFError

pytestmark = pytest.mark.oracle

SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 128,
}  # fmt: skip
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}
WINDOW = {"use_sliding_window": True, "sliding_window": 8}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"tie_word_embeddings": True, "num_key_value_heads": 1},
        {"rope_scaling": YARN, "rope_theta": 1e6},
        {"rope_scaling": {**YARN, "attention_factor": 0.7, "beta_fast": 16.0}},
        {"rope_scaling": {**YARN, "mscale": 0.5, "mscale_all_dim": 2.0}},
        {**WINDOW, "max_window_layers": 1},
    ],
    ids=["plain", "tied", "yarn", "yarn with a factor", "yarn with scales", "late windows"],
)
def test_qwen2(tmp_path: Path, changes: Any) -> None:
    hf.check(tmp_path, transformers.Qwen2Config(**deepcopy({**SIZES, **changes})))


@pytest.mark.parametrize(
    "changes",
    [
        {"head_dim": 32},
        {"head_dim": 24, "tie_word_embeddings": True, "num_key_value_heads": 1, "num_attention_heads": 3},
        {"head_dim": 16, "attention_bias": True, "rope_scaling": YARN},
        {"head_dim": 16, **WINDOW, "layer_types": ["full_attention", "sliding_attention", "full_attention"]},
    ],
    ids=["wide heads", "tied", "yarn", "windows"],
)
def test_qwen3(tmp_path: Path, changes: Any) -> None:
    hf.check(tmp_path, transformers.Qwen3Config(**deepcopy({**SIZES, **changes})))


def test_config_json_of_transformers_4(tmp_path: Path) -> None:
    """rope_theta beside rope_scaling with "type", no layer_types."""
    model = hf.checkpoint(tmp_path / "hf", transformers.Qwen2Config(
        **SIZES, **WINDOW, max_window_layers=2, rope_theta=5e4, rope_scaling=dict(YARN)))  # fmt: skip
    old = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}
    hf.config_json(tmp_path / "hf", rope_parameters=None, layer_types=None, rope_theta=5e4, rope_scaling=old)
    convert(tmp_path / "hf", tmp_path / "m.gguf", ConvertOptions("F32"))
    tokens = np.arange(40) % VOCABULARY
    for logits in hf.ours(tmp_path / "m.gguf", tokens.tolist()):
        assert hf.difference(hf.truth(model, tokens), logits) < hf.LIMIT


@pytest.mark.parametrize("kind", ["longrope", "llama3"])
def test_positions_that_no_file_can_say(kind: str, tmp_path: Path) -> None:
    hf.checkpoint(tmp_path / "hf", transformers.Qwen2Config(**SIZES))
    hf.config_json(tmp_path / "hf", rope_parameters={"rope_type": kind, "rope_theta": 1e4, "factor": 2.0})
    with pytest.raises(GGUFError, match=f"rope_type is '{kind}', which this architecture does not run with"):
        convert(tmp_path / "hf", tmp_path / "m.gguf", ConvertOptions("F32"))


def test_a_body_alone(tmp_path: Path) -> None:
    """Embedding models are saved without a head, and without "model." before names."""
    config = transformers.Qwen3Config(**SIZES, head_dim=16, tie_word_embeddings=True)
    model = hf.checkpoint(tmp_path / "hf", config, model=transformers.AutoModel.from_config)
    convert(tmp_path / "hf", tmp_path / "m.gguf", ConvertOptions("F32"))
    with gguf.open(tmp_path / "m.gguf") as file:
        found = file.tensors["blk.2.attn_k_norm.weight"].to_numpy()
    np.testing.assert_array_equal(found, model.layers[2].self_attn.k_norm.weight.detach().numpy())
