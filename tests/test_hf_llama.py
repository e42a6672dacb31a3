"""Checkpoints of llama and what shares its layers, against transformers."""

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
    "vocab_size": VOCABULARY, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 128,
}  # fmt: skip
PLAIN_YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"tie_word_embeddings": True, "num_key_value_heads": 4},
        {"attention_bias": True, "mlp_bias": True},
        {"head_dim": 32, "rope_theta": 500000.0, "rms_norm_eps": 1e-5},
        {"rope_scaling": {"rope_type": "linear", "factor": 2.0}},
        {"rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                          "original_max_position_embeddings": 32}},
        {"rope_scaling": PLAIN_YARN},
        {"rope_scaling": {**PLAIN_YARN, "attention_factor": 0.6}},
        {"rope_scaling": {**PLAIN_YARN, "mscale": 0.5, "mscale_all_dim": 2.0}},
    ],
    ids=["plain", "tied", "biases", "heads", "linear", "llama3", "yarn", "yarn with a factor", "yarn with scales"],
)  # fmt: skip
def test_llama(tmp_path: Path, changes: Any) -> None:
    hf.check(tmp_path, transformers.LlamaConfig(**deepcopy({**SIZES, **changes})))


def test_mistral(tmp_path: Path) -> None:
    hf.check(tmp_path, transformers.MistralConfig(**SIZES, sliding_window=16))


EXPERTS: dict[str, Any] = {**SIZES, "num_local_experts": 4, "num_experts_per_tok": 2}


@pytest.mark.parametrize("changes", [{}, {"sliding_window": 16, "head_dim": 32}], ids=["plain", "window"])
def test_mixtral(tmp_path: Path, changes: Any) -> None:
    hf.check(tmp_path, transformers.MixtralConfig(**{**EXPERTS, **changes}), seed=1)


def test_mixtral_in_the_names_of_transformers_5(tmp_path: Path) -> None:
    model = hf.checkpoint(tmp_path / "hf", transformers.MixtralConfig(**EXPERTS))
    convert(tmp_path / "hf", tmp_path / "a.gguf", ConvertOptions("F32", no_vocab=True))
    tensors = {name: value.contiguous() for name, value in model.state_dict().items()}
    assert "model.layers.0.mlp.experts.gate_up_proj" in tensors
    hf.safetensors_torch.save_file(tensors, tmp_path / "hf/model.safetensors")
    convert(tmp_path / "hf", tmp_path / "b.gguf", ConvertOptions("F32", no_vocab=True))
    with gguf.open(tmp_path / "a.gguf") as a, gguf.open(tmp_path / "b.gguf") as b:
        assert dict(a.metadata) == dict(b.metadata) | {"general.name": a.metadata["general.name"]}
        for name, tensor in a.tensors.items():
            np.testing.assert_array_equal(tensor.to_numpy(), b.tensors[name].to_numpy())


def test_another_activation_is_refused(tmp_path: Path) -> None:
    hf.checkpoint(tmp_path / "hf", transformers.LlamaConfig(**SIZES, hidden_act="gelu"))
    with pytest.raises(GGUFError, match="hidden_act is 'gelu'; this architecture has silu alone"):
        convert(tmp_path / "hf", tmp_path / "a.gguf", ConvertOptions("F32", no_vocab=True))


YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16, "mscale": 1.0,
        "mscale_all_dim": 1.0, "llama_4_scaling_beta": 0.3, "rope_theta": 1e5}  # fmt: skip


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"mscale": 0.5, "mscale_all_dim": 2.0, "beta_fast": 8.0},
        {"mscale": 0.0},
        {"attention_factor": 0.6},
        {"attention_factor": 0.6, "mscale_all_dim": 0.0},
    ],
    ids=["plain", "scales", "one scale", "a factor", "a factor alone"],
)
def test_ministral3(tmp_path: Path, changes: Any) -> None:
    hf.check(tmp_path, transformers.Ministral3Config(**SIZES, head_dim=32, rope_parameters={**YARN, **changes}))


@pytest.mark.parametrize("kind", ["ministral3", "mistral"])
def test_the_text_half_of_mistral3(tmp_path: Path, kind: str) -> None:
    vision = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
              "head_dim": 16, "image_size": 32, "patch_size": 16, "model_type": "pixtral"}  # fmt: skip
    made = {"ministral3": lambda: transformers.Ministral3Config(**SIZES, head_dim=32, rope_parameters=dict(YARN)),
            "mistral": lambda: transformers.MistralConfig(**SIZES, head_dim=32, sliding_window=None)}  # fmt: skip
    config = transformers.Mistral3Config(text_config=made[kind](), vision_config=vision)
    model = hf.checkpoint(tmp_path / "hf", config, model=transformers.Mistral3ForConditionalGeneration)
    report = convert(tmp_path / "hf", tmp_path / "m.gguf", ConvertOptions("F32", no_vocab=True))
    assert any("only the text half is converted" in note for note in report.notes)
    tokens = np.arange(40) % 9 + 20
    exact = hf.truth(model, tokens)
    hf.agrees(tmp_path / "m.gguf", tokens.tolist(), exact)
    with gguf.open(tmp_path / "m.gguf") as file:
        assert file.metadata["general.architecture"] == "mistral3"
