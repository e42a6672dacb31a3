"""Checkpoints of MiniCPM, whose code transformers has not: the truth is its llama with factors where MiniCPM's
own code (modeling_minicpm.py) has them."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import hf
import numpy as np
import pytest
from hf import VOCABULARY, torch, transformers

from ggufpy import format as gguf
from ggufpy.convert import ConvertOptions, convert
from ggufpy.convert.export import export

pytestmark = pytest.mark.oracle

SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 128,
}  # fmt: skip
FACTORS = {"scale_emb": 12, "scale_depth": 1.4, "dim_model_base": 32}


def scaled(model: Any) -> Any:
    """A llama with MiniCPM's factors in its weights."""
    with torch.no_grad():
        untied = model.lm_head.weight.clone() * (32 / 64)
        model.lm_head.weight = torch.nn.Parameter(untied)
        model.model.embed_tokens.weight.mul_(12)
        for layer in model.model.layers:
            for product in (layer.self_attn.o_proj, layer.mlp.down_proj):
                product.weight.mul_(1.4 / math.sqrt(2))
    return model


@pytest.mark.parametrize("tied", [True, False])
def test_minicpm(tmp_path: Path, tied: bool) -> None:
    model = hf.checkpoint(tmp_path / "hf", transformers.LlamaConfig(**SIZES, tie_word_embeddings=tied))
    tokens = np.random.default_rng(5).integers(0, VOCABULARY, 40).tolist()
    hf.config_json(tmp_path / "hf", architectures=["MiniCPMForCausalLM"], model_type="minicpm", **FACTORS)
    path = tmp_path / "model.gguf"
    convert(tmp_path / "hf", path, ConvertOptions("F32", no_vocab=True))
    exact = hf.truth(scaled(model), tokens)
    hf.agrees(path, tokens, exact)
    with gguf.open(path) as file:
        export(file, tmp_path / "back")
    hf.same_tensors(tmp_path / "hf", tmp_path / "back")
    convert(tmp_path / "back", tmp_path / "again.gguf", ConvertOptions("F32", no_vocab=True))
    with gguf.open(path) as a, gguf.open(tmp_path / "again.gguf") as b:
        keys = [key for key in a.metadata if key.startswith("minicpm.")]
        assert {key: a.metadata[key] for key in keys} == pytest.approx({key: b.metadata[key] for key in keys})


def test_longrope(tmp_path: Path) -> None:
    """Long factors where the context is longer than the one trained first; Phi 3 without its attention factor."""
    hf.checkpoint(tmp_path / "hf", transformers.LlamaConfig(**SIZES))
    long, short = ([1.0 + x * i for i in range(8)] for x in (0.5, 0.1))
    scaling = {"rope_type": "longrope", "long_factor": long, "short_factor": short,
               "original_max_position_embeddings": 32}  # fmt: skip
    hf.config_json(tmp_path / "hf", architectures=["MiniCPMForCausalLM"], rope_parameters=None, rope_scaling=scaling,
                   **FACTORS)  # fmt: skip
    convert(tmp_path / "hf", tmp_path / "model.gguf", ConvertOptions("F32", no_vocab=True))
    with gguf.open(tmp_path / "model.gguf") as file:
        np.testing.assert_array_equal(file.tensors["rope_factors_long.weight"].to_numpy(), np.float32(long))
        assert file.metadata["minicpm.rope.scaling.type"] == "longrope"
        export(file, tmp_path / "back")
    convert(tmp_path / "back", tmp_path / "again.gguf", ConvertOptions("F32", no_vocab=True))
    with gguf.open(tmp_path / "again.gguf") as file:
        np.testing.assert_array_equal(file.tensors["rope_factors_short.weight"].to_numpy(), np.float32(short))
