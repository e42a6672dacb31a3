"""Checkpoints of Hunyuan, against transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import hf
import pytest
from hf import VOCABULARY, transformers

from ggufpy import GGUFError
from ggufpy.convert import ConvertOptions, convert

pytestmark = pytest.mark.oracle

SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "head_dim": 32,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 32768,
}  # fmt: skip
ALPHA = {"rope_type": "dynamic", "rope_theta": 10000.0, "alpha": 1000.0, "factor": 1.0}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"tie_word_embeddings": True, "attention_bias": True, "num_key_value_heads": 1},
        {"rope_parameters": ALPHA},
    ],
    ids=["plain", "biases", "alpha"],
)
def test_hunyuan(tmp_path: Path, changes: Any) -> None:
    keys = hf.check(tmp_path, transformers.HunYuanDenseV1Config(**{**SIZES, **changes}))
    assert keys["hunyuan-dense.context_length"] == (262144 if "rope_parameters" in changes else 32768)


def test_a_base_that_goes_with_the_length_is_refused(tmp_path: Path) -> None:
    hf.checkpoint(tmp_path / "hf", transformers.HunYuanDenseV1Config(**SIZES))
    hf.config_json(tmp_path / "hf", rope_parameters={"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4})
    with pytest.raises(GGUFError, match="rope_type is dynamic without an alpha"):
        convert(tmp_path / "hf", tmp_path / "model.gguf", ConvertOptions("F32", no_vocab=True))
