"""Checkpoints of BitNet against transformers, as floats, rounded when used, and packed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import hf
import numpy as np
import pytest
from hf import VOCABULARY, safetensors_torch, torch, transformers

from ggufpy import GGUFError
from ggufpy import format as gguf
from ggufpy.convert import ConvertOptions, convert

pytestmark = pytest.mark.oracle

SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY, "hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 128, "bos_token_id": 0,
    "eos_token_id": 0, "pad_token_id": 0,
}  # fmt: skip


@pytest.mark.parametrize("changes", [{}, {"tie_word_embeddings": True, "hidden_act": "silu"}], ids=["relu2", "silu"])
def test_bitnet(tmp_path: Path, changes: Any) -> None:
    hf.check(tmp_path, transformers.BitNetConfig(**{**SIZES, **changes}))


def ternary(model: Any) -> Any:
    """The model with weights as `WeightQuant` of transformers rounds them."""
    with torch.no_grad():
        for name, value in model.named_parameters():
            if name.endswith("_proj.weight"):
                scale = 1.0 / value.abs().mean().clamp(min=1e-5)
                value.copy_((value * scale).round().clamp(-1, 1) / scale)
    return model


def same(folder: Path, model: Any) -> None:
    """What a folder converts to gives the model's logits."""
    convert(folder, folder / "model.gguf", ConvertOptions("F32", no_vocab=True))
    tokens = np.random.default_rng(5).integers(0, VOCABULARY, 40).tolist()
    exact = hf.truth(model, tokens)
    hf.agrees(folder / "model.gguf", tokens, exact)


def test_floats_that_are_rounded_when_used(tmp_path: Path) -> None:
    model = hf.checkpoint(tmp_path, transformers.BitNetConfig(**SIZES))
    said = {"quant_method": "bitnet", "linear_class": "autobitlinear", "quantization_mode": "online"}
    hf.config_json(tmp_path, quantization_config=said)
    same(tmp_path, ternary(model))


@pytest.mark.parametrize("kind", ["autobitlinear", "bitlinear"])
def test_packed(tmp_path: Path, kind: str) -> None:
    from transformers.integrations.bitnet import pack_weights

    model = hf.checkpoint(tmp_path, transformers.BitNetConfig(**SIZES))
    path, unit = tmp_path / "model.safetensors", 0.0625
    tensors = safetensors_torch.load_file(path)
    for name, value in list(tensors.items()):
        if name.endswith("_proj.weight"):
            signs = (value / value.abs().mean()).round().clamp(-1, 1)
            tensors[name] = pack_weights(signs.clone())  # which changes what it is given
            tensors[f"{name}_scale"] = torch.tensor([unit if kind == "autobitlinear" else 1 / unit]).bfloat16()
            model.get_parameter(name).data.copy_(signs * unit)
    safetensors_torch.save_file(tensors, path)
    hf.config_json(tmp_path, quantization_config={"quant_method": "bitnet", "linear_class": kind})
    same(tmp_path, model)
    convert(tmp_path, tmp_path / "kept.gguf", ConvertOptions("auto", keep=True, no_vocab=True))
    with gguf.open(tmp_path / "kept.gguf") as file:
        kept = file.tensors["blk.1.ffn_down.weight"]
        assert kept.type == "TQ2_0"
        np.testing.assert_array_equal(kept.to_numpy(), model.model.layers[1].mlp.down_proj.weight.detach().numpy())


def test_settings_that_nobody_knows(tmp_path: Path) -> None:
    hf.checkpoint(tmp_path, transformers.BitNetConfig(**SIZES))
    hf.config_json(tmp_path, quantization_config={"quant_method": "bitnet", "linear_class": "other"})
    with pytest.raises(GGUFError, match="which ggufpy does not know"):
        convert(tmp_path, tmp_path / "model.gguf", ConvertOptions("F32", no_vocab=True))
