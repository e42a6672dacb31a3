"""Checkpoints of GLM 4 and of its mixtures, against transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import hf
import pytest
from hf import VOCABULARY, safetensors_torch, torch, transformers

from ggufpy import format as gguf
from ggufpy.convert import ConvertOptions, convert

pytestmark = pytest.mark.oracle

SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 128, "pad_token_id": 0,
    "head_dim": 32,
}  # fmt: skip
EXPERTS: dict[str, Any] = {
    **SIZES, "n_routed_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "n_shared_experts": 1,
    "first_k_dense_replace": 1,
}  # fmt: skip


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"tie_word_embeddings": True, "num_key_value_heads": 1, "attention_bias": False},
        {"partial_rotary_factor": 0.75, "rope_theta": 500000.0},
        {"partial_rotary_factor": 1.0},
    ],
    ids=["plain", "tied", "more turned", "all turned"],
)
def test_glm4(tmp_path: Path, changes: Any) -> None:
    hf.check(tmp_path, transformers.Glm4Config(**{**SIZES, **changes}))


def with_biases(config: Any) -> Any:
    """A model whose routers have biases, which are no parameters."""
    made = transformers.AutoModelForCausalLM.from_config(config)
    for name, value in made.named_buffers():
        if name.endswith("e_score_correction_bias"):
            value.copy_(0.3 * torch.randn_like(value))
    return made


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"tie_word_embeddings": True, "attention_bias": True, "use_qk_norm": True, "n_shared_experts": 2},
        {"n_group": 3, "topk_group": 2, "routed_scaling_factor": 2.5, "num_hidden_layers": 3},
        {"first_k_dense_replace": 0, "norm_topk_prob": False},
    ],
    ids=["plain", "biases and norms", "groups", "experts alone"],
)
def test_glm4moe(tmp_path: Path, changes: Any) -> None:
    hf.check(tmp_path, transformers.Glm4MoeConfig(**{**EXPERTS, **changes}), model=with_biases)


def test_layers_that_predict_further_tokens_are_left_out(tmp_path: Path) -> None:
    hf.checkpoint(tmp_path / "hf", transformers.Glm4MoeConfig(**EXPERTS))
    hf.config_json(tmp_path / "hf", num_nextn_predict_layers=1)
    path = tmp_path / "hf" / "model.safetensors"
    tensors = safetensors_torch.load_file(path)
    tensors["model.layers.2.eh_proj.weight"] = torch.zeros(64, 128)
    safetensors_torch.save_file(tensors, path)
    report = convert(tmp_path / "hf", tmp_path / "model.gguf", ConvertOptions("F32", no_vocab=True))
    assert "left out: what predicts further tokens (MTP, 1 tensors)" in report.notes
    with gguf.open(tmp_path / "model.gguf") as file:
        assert file.metadata["glm4moe.block_count"] == 2
