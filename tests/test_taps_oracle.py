"""What hooks see of attention and of layers, against what transformers gives out of the same checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import hf
import numpy as np
import pytest
import test_hf_gpt_oss
from hf import VOCABULARY, torch, transformers

import ggufpy
from ggufpy.convert import ConvertOptions, convert

pytestmark = pytest.mark.oracle

SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 128,
}  # fmt: skip
CONFIGS: dict[str, Any] = {
    "llama": lambda: transformers.LlamaConfig(**SIZES),
    "qwen3": lambda: transformers.Qwen3Config(**SIZES, head_dim=32),
    "gemma2": lambda: transformers.Gemma2Config(
        **SIZES, head_dim=32, sliding_window=9, attn_logit_softcapping=2.0, query_pre_attn_scalar=24
    ),
    "gemma3": lambda: transformers.Gemma3TextConfig(
        **SIZES, head_dim=32, sliding_window=9, layer_types=["sliding_attention", "full_attention", "sliding_attention"]
    ),
    "gpt-oss": lambda: transformers.GptOssConfig(**test_hf_gpt_oss.SIZES),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_attention_and_layers(name: str, tmp_path: Path) -> None:
    config = CONFIGS[name]()
    model = hf.checkpoint(tmp_path / "hf", config)
    model.set_attn_implementation("eager")  # the others have no probabilities to give
    tokens = np.random.default_rng(5).integers(0, VOCABULARY, 40).tolist()
    with torch.no_grad():
        right = model(torch.tensor([tokens]), output_attentions=True, output_hidden_states=True)
    convert(tmp_path / "hf", tmp_path / "m.gguf", ConvertOptions("F32", no_vocab=True))
    weights, states = dict[str, Any](), dict[str, Any]()

    def see(values: Any, rows: Any) -> None:
        (weights if rows.name.endswith("kq_soft_max") else states)[rows.name] = values.copy()

    with (
        ggufpy.Llama(tmp_path / "m.gguf", n_threads=1) as llm,
        llm.hook("blk.*.kq_soft_max", see), llm.hook("blk.*.l_out", see),
    ):  # fmt: skip
        llm.logits(tokens)
    assert len(weights) == len(states) == len(right.attentions) == config.num_hidden_layers
    for i, attention in enumerate(right.attentions):
        exact = attention[0].transpose(0, 1)[:, :, : len(tokens)].numpy()  # behind the tokens there may be a sink
        np.testing.assert_allclose(weights[f"blk.{i}.kq_soft_max"], exact, atol=3e-3)
    for i, state in enumerate(right.hidden_states[1:-1]):  # the last one is behind a norm
        np.testing.assert_allclose(states[f"blk.{i}.l_out"], state[0].numpy(), atol=5e-3 * float(state.abs().max()))
