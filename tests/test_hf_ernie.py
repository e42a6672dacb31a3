"""Checkpoints of ERNIE 4.5, dense and with experts, against transformers."""

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
    "vocab_size": VOCABULARY, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "head_dim": 32,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 128,
}  # fmt: skip
EXPERTS: dict[str, Any] = {
    **SIZES, "num_hidden_layers": 4, "moe_num_experts": 6, "moe_k": 2, "moe_intermediate_size": 32,
    "moe_num_shared_experts": 1,
}  # fmt: skip


@pytest.mark.parametrize(
    "changes",
    [{}, {"tie_word_embeddings": False, "use_bias": True, "num_key_value_heads": 1, "rope_theta": 500000.0}],
    ids=["plain", "biases"],
)
def test_ernie(tmp_path: Path, changes: Any) -> None:
    hf.check(tmp_path, transformers.Ernie4_5Config(**{**SIZES, **changes}))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"use_bias": True, "moe_num_shared_experts": 0, "tie_word_embeddings": False},
        {"moe_layer_interval": 2, "moe_layer_start_index": 0, "moe_num_shared_experts": 2},
        {"moe_layer_start_index": 1, "moe_layer_end_index": 2},
    ],
    ids=["plain", "biases", "every other layer", "dense ends"],
)
def test_ernie_with_experts(tmp_path: Path, changes: Any) -> None:
    hf.check(tmp_path, transformers.Ernie4_5_MoeConfig(**{**EXPERTS, **changes}), seed=2)


def test_fused_matrices_and_what_predicts_further_tokens(tmp_path: Path) -> None:
    hf.checkpoint(tmp_path / "hf", transformers.Ernie4_5Config(**SIZES))
    convert(tmp_path / "hf", tmp_path / "apart.gguf", ConvertOptions("F32", no_vocab=True))
    path = tmp_path / "hf" / "model.safetensors"
    tensors = {name.replace("model.", "ernie."): tensor for name, tensor in safetensors_torch.load_file(path).items()}
    for i in range(2):
        at = f"ernie.layers.{i}."
        q, k, v = (tensors.pop(f"{at}self_attn.{name}_proj.weight") for name in "qkv")
        tensors[f"{at}self_attn.qkv_proj.weight"] = torch.cat([q, k, v])
        gate, up = (tensors.pop(f"{at}mlp.{name}_proj.weight") for name in ("gate", "up"))
        tensors[f"{at}mlp.up_gate_proj.weight"] = torch.cat([gate, up])
    tensors["ernie.mtp_linear_proj.0.weight"] = torch.zeros(64, 128)
    safetensors_torch.save_file(tensors, path)
    report = convert(tmp_path / "hf", tmp_path / "fused.gguf", ConvertOptions("F32", no_vocab=True))
    assert "left out: what predicts further tokens (MTP, 1 tensors)" in report.notes
    with gguf.open(tmp_path / "apart.gguf") as a, gguf.open(tmp_path / "fused.gguf") as b:
        assert set(a.tensors) == set(b.tensors)
        for name, tensor in a.tensors.items():
            assert (tensor.to_numpy() == b.tensors[name].to_numpy()).all(), name
