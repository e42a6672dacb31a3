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
    convert(tmp_path / "hf", tmp_path / "m.gguf", ConvertOptions("F32", no_vocab=True))
    tokens = np.arange(40) % VOCABULARY
    hf.agrees(tmp_path / "m.gguf", tokens.tolist(), hf.truth(model, tokens))


@pytest.mark.parametrize("kind", ["longrope", "llama3"])
def test_positions_that_no_file_can_say(kind: str, tmp_path: Path) -> None:
    hf.checkpoint(tmp_path / "hf", transformers.Qwen2Config(**SIZES))
    hf.config_json(tmp_path / "hf", rope_parameters={"rope_type": kind, "rope_theta": 1e4, "factor": 2.0})
    with pytest.raises(GGUFError, match=f"rope_type is '{kind}', which this architecture does not run with"):
        convert(tmp_path / "hf", tmp_path / "m.gguf", ConvertOptions("F32", no_vocab=True))


def test_a_body_alone(tmp_path: Path) -> None:
    """Embedding models are saved without a head, and without "model." before names."""
    config = transformers.Qwen3Config(**SIZES, head_dim=16, tie_word_embeddings=True)
    model = hf.checkpoint(tmp_path / "hf", config, model=transformers.AutoModel.from_config)
    convert(tmp_path / "hf", tmp_path / "m.gguf", ConvertOptions("F32", no_vocab=True))
    with gguf.open(tmp_path / "m.gguf") as file:
        norm = file.tensors["blk.2.attn_k_norm.weight"].to_numpy()
    np.testing.assert_array_equal(norm, model.layers[2].self_attn.k_norm.weight.detach().numpy())


EXPERTS: dict[str, Any] = {**SIZES, "moe_intermediate_size": 32, "num_experts": 6, "num_experts_per_tok": 2,
                           "decoder_sparse_step": 1}  # fmt: skip


@pytest.mark.parametrize(
    "changes",
    [
        {"head_dim": 32},
        {"head_dim": 16, "attention_bias": True, "tie_word_embeddings": True, "num_experts_per_tok": 3},
        {"head_dim": 16, **WINDOW, "rope_scaling": YARN},
    ],
    ids=["plain", "biases", "windows"],
)
def test_qwen3moe(tmp_path: Path, changes: Any) -> None:
    # With the seed 0 two experts are nearly equal to a token, and rounding decides.
    hf.check(tmp_path, transformers.Qwen3MoeConfig(**deepcopy({**EXPERTS, "norm_topk_prob": True, **changes})), seed=1)


@pytest.mark.parametrize(
    "changes", [{}, {"num_key_value_heads": 1, **WINDOW, "max_window_layers": 2}], ids=["plain", "windows"]
)
def test_qwen2moe(tmp_path: Path, changes: Any) -> None:
    hf.check(tmp_path, transformers.Qwen2MoeConfig(
        **{**EXPERTS, "shared_expert_intermediate_size": 48, **changes}))  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"norm_topk_prob": False}, "norm_topk_prob is false"),
        ({"mlp_only_layers": [1], "norm_topk_prob": True}, "some layers have no experts"),
        ({"decoder_sparse_step": 2, "norm_topk_prob": True}, "some layers have no experts"),
    ],
)
def test_experts_that_no_file_can_say(changes: Any, match: str, tmp_path: Path) -> None:
    hf.checkpoint(tmp_path / "hf", transformers.Qwen3MoeConfig(**{**EXPERTS, "head_dim": 16}))
    hf.config_json(tmp_path / "hf", **changes)
    with pytest.raises(GGUFError, match=match):
        convert(tmp_path / "hf", tmp_path / "m.gguf", ConvertOptions("F32", no_vocab=True))


def test_experts_in_two_tensors(tmp_path: Path) -> None:
    """As transformers 5 holds them, and others may save them; and a model of which experts were taken out."""
    config = transformers.Qwen3MoeConfig(**{**EXPERTS, "head_dim": 16, "norm_topk_prob": True})
    hf.checkpoint(tmp_path / "hf", config)
    convert(tmp_path / "hf", tmp_path / "m.gguf", ConvertOptions("F32", no_vocab=True))
    stored = hf.safetensors_torch.load_file(tmp_path / "hf/model.safetensors")
    at, matrices = "model.layers.{}.mlp.experts.", ("gate_proj", "up_proj", "down_proj")
    stacked = {name: value for name, value in stored.items() if ".experts." not in name}
    for i in range(3):
        gate, up, down = (
            hf.torch.stack([stored[f"{at.format(i)}{n}.{name}.weight"] for n in range(6)]) for name in matrices
        )
        stacked[f"{at.format(i)}gate_up_proj"] = hf.torch.cat([gate, up], 1)
        stacked[f"{at.format(i)}down_proj"] = down
    hf.safetensors_torch.save_file(stacked, tmp_path / "hf/model.safetensors")
    convert(tmp_path / "hf", tmp_path / "n.gguf", ConvertOptions("F32", no_vocab=True))
    fewer = {name: value for name, value in stored.items() if ".experts.4." not in name and ".experts.5." not in name}
    fewer |= {name: value[:4].clone() for name, value in stored.items() if name.endswith("mlp.gate.weight")}
    hf.safetensors_torch.save_file(fewer, tmp_path / "hf/model.safetensors")
    report = convert(tmp_path / "hf", tmp_path / "p.gguf", ConvertOptions("F32", no_vocab=True))
    assert "the model was pruned: 4 experts of 6 are there" in report.notes
    with gguf.open(tmp_path / "m.gguf") as a, gguf.open(tmp_path / "n.gguf") as b, gguf.open(tmp_path / "p.gguf") as c:
        assert c.metadata["qwen3moe.expert_count"] == 4
        for name, tensor in a.tensors.items():
            np.testing.assert_array_equal(tensor.to_numpy(), b.tensors[name].to_numpy())
            values = c.tensors[name].to_numpy()
            np.testing.assert_array_equal(tensor.to_numpy()[: len(values)], values)
