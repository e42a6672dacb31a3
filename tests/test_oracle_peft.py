"""Adapters against PEFT: what it merges, and the logits that a converted adapter gives."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ggufpy import format as gguf
from ggufpy import runtime
from ggufpy.convert import ConvertOptions, convert
from ggufpy.convert.adapter import convert_adapter
from ggufpy.convert.folder import open_folder
from ggufpy.convert.merging import with_adapters
from ggufpy.convert.peft import open_adapter
from ggufpy.models import lora
from ggufpy.runtime import EngineOptions

pytestmark = pytest.mark.oracle
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
peft = pytest.importorskip("peft")

LLAMA = {
    "vocab_size": 96, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 64,
}  # fmt: skip
MATRICES = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def adapter(folder: Path, config: Any, **settings: Any) -> Any:
    """A model and a random adapter in folders "base" and "lora"; the model with the adapter."""
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config).float().eval()
    model.save_pretrained(folder / "base")
    made = peft.get_peft_model(model, peft.LoraConfig(**settings))
    with torch.no_grad():
        for name, value in made.named_parameters():
            if "lora_" in name or "modules_to_save" in name:
                value.copy_(torch.randn_like(value) / value.shape[-1] ** 0.5 / 3)
    made.save_pretrained(folder / "lora")
    return made.eval()


def check_merged(folder: Path, made: Any) -> None:
    """Weights with the adapter are those that PEFT merges, but for the order of sums."""
    tensors = open_folder(folder / "base").tensors
    ours = with_adapters(tensors, [(open_adapter(folder / "lora"), 1.0)])
    state = made.merge_and_unload().state_dict()
    for name, rows in ours.items():
        np.testing.assert_allclose(rows.to_numpy(), state[name].numpy(), atol=2e-6, rtol=2e-6, err_msg=name)
    assert any(not np.array_equal(rows.to_numpy(), tensors[name].to_numpy()) for name, rows in ours.items())


@pytest.mark.parametrize(
    "settings",
    [
        {"r": 8, "lora_alpha": 16}, {"r": 8, "lora_alpha": 16, "use_rslora": True},
        {"r": 4, "lora_alpha": 8, "rank_pattern": {"v_proj": 2}, "alpha_pattern": {"layers.1.mlp.up_proj": 3}},
        {"r": 4, "use_rslora": True, "rank_pattern": {"v_proj": 2}},
    ],
)  # fmt: skip
def test_llama(tmp_path: Path, settings: Any) -> None:
    made = adapter(tmp_path, transformers.LlamaConfig(**LLAMA), target_modules=[*MATRICES, "lm_head"], **settings)
    tokens = [1, 5, 9, 2, 7]
    with torch.no_grad():
        wanted = made(torch.tensor([tokens])).logits[0].numpy()
    convert(tmp_path / "base", tmp_path / "m.gguf", ConvertOptions("F32", no_vocab=True))
    convert_adapter(tmp_path / "lora", tmp_path / "l.gguf", tmp_path / "base")
    with (
        gguf.open(tmp_path / "m.gguf") as file,
        gguf.open(tmp_path / "l.gguf") as beside,
        runtime.load(file, EngineOptions(n_ctx=8), None, [lora.read(beside)]) as engine,
    ):
        sequence = engine.sequence()
        sequence.scales = (1.0,)
        logits = engine.read(sequence, tokens, "all")
    assert np.abs(logits - wanted).max() < 1e-3 * np.ptp(wanted)
    check_merged(tmp_path, made)


def test_embeddings_and_a_head_of_its_own(tmp_path: Path) -> None:
    settings = {"target_modules": ["embed_tokens", "q_proj"], "modules_to_save": ["lm_head"]}
    check_merged(tmp_path, adapter(tmp_path, transformers.LlamaConfig(**LLAMA), r=4, **settings))


def test_an_adapter_of_a_body_without_its_head(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(transformers.LlamaConfig(**LLAMA)).float().eval()
    model.save_pretrained(tmp_path / "base")
    made = peft.get_peft_model(model.model, peft.LoraConfig(r=4, target_modules=MATRICES))
    with torch.no_grad():
        for name, value in made.named_parameters():
            if "lora_" in name:
                value.copy_(torch.randn_like(value) / 8)
    made.save_pretrained(tmp_path / "lora")
    tensors = open_folder(tmp_path / "base").tensors
    ours = with_adapters(tensors, [(open_adapter(tmp_path / "lora"), 1.0)], "model.|embed_tokens.weight")
    for name, value in made.merge_and_unload().state_dict().items():
        np.testing.assert_allclose(ours[f"model.{name}"].to_numpy(), value.numpy(), atol=2e-6, rtol=2e-6, err_msg=name)


def test_gpt2_whose_layers_are_the_other_way_round(tmp_path: Path) -> None:
    config = transformers.GPT2Config(vocab_size=96, n_positions=64, n_embd=64, n_layer=2, n_head=4)
    made = adapter(tmp_path, config, r=4, target_modules=["c_attn", "c_proj", "c_fc"], fan_in_fan_out=True)
    check_merged(tmp_path, made)
