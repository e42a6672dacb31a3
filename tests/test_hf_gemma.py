"""Checkpoints of Gemma 1 to 3, against transformers. Norms are kept less 1, which float32 loses bits of: these are
bfloat16."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import hf
import numpy as np
import pytest
from hf import VOCABULARY, torch, transformers

from ggufpy import format as gguf
from ggufpy.convert import ConvertOptions, convert
from ggufpy.errors import GGUFError

pytestmark = pytest.mark.oracle

SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 24, "max_position_embeddings": 128,
}  # fmt: skip
LINEAR = {
    "full_attention": {"rope_type": "linear", "factor": 4.0, "rope_theta": 5e4},
    "sliding_attention": {"rope_type": "default", "rope_theta": 2e3},
}


def check(tmp_path: Path, config: Any, changes: Any) -> dict[str, Any]:
    return hf.check(tmp_path, config(**deepcopy({**SIZES, **changes})), dtype=torch.bfloat16)


@pytest.mark.parametrize("changes", [{"num_key_value_heads": 1}, {"head_dim": 16, "tie_word_embeddings": False}],
                         ids=["one key", "untied"])  # fmt: skip
def test_gemma(tmp_path: Path, changes: Any) -> None:
    check(tmp_path, transformers.GemmaConfig, changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"sliding_window": 8, "query_pre_attn_scalar": 24, "attn_logit_softcapping": 2.0,
         "final_logit_softcapping": 1.5},
        {"sliding_window": 12, "query_pre_attn_scalar": 40, "final_logit_softcapping": None, "num_key_value_heads": 1,
         "layer_types": ["full_attention", "full_attention", "sliding_attention"]},
    ],
    ids=["capped", "odd"],
)  # fmt: skip
def test_gemma2(tmp_path: Path, changes: Any) -> None:
    check(tmp_path, transformers.Gemma2Config, changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"num_hidden_layers": 7, "sliding_window": 8, "query_pre_attn_scalar": 24},
        {"sliding_window": 8, "query_pre_attn_scalar": 32, "rope_parameters": LINEAR, "final_logit_softcapping": 2.0,
         "layer_types": ["full_attention", "sliding_attention", "full_attention"]},
        {"sliding_window": 8, "query_pre_attn_scalar": 24, "layer_types": ["full_attention"] * 3,
         "num_key_value_heads": 1},
    ],
    ids=["plain", "linear", "no window"],
)  # fmt: skip
def test_gemma3(tmp_path: Path, changes: Any) -> None:
    check(tmp_path, transformers.Gemma3TextConfig, changes)


def test_config_json_of_transformers_4(tmp_path: Path) -> None:
    """Bases and scaling beside each other, a pattern in place of types of layers, and values left out."""
    config = transformers.Gemma3TextConfig(**deepcopy({**SIZES, "num_hidden_layers": 4, "sliding_window": 8,
                                           "sliding_window_pattern": 2, "query_pre_attn_scalar": 24,
                                           "rope_parameters": LINEAR, "num_key_value_heads": 4}))  # fmt: skip
    model = hf.checkpoint(tmp_path / "hf", config, dtype=torch.bfloat16)
    hf.config_json(
        tmp_path / "hf", rope_parameters=None, layer_types=None, rope_theta=5e4, rope_local_base_freq=2e3,
        rope_scaling={"rope_type": "linear", "factor": 4.0}, sliding_window_pattern=2, num_key_value_heads=None,
        rms_norm_eps=None, max_position_embeddings=None,
    )  # fmt: skip
    convert(tmp_path / "hf", tmp_path / "m.gguf", ConvertOptions("F32", no_vocab=True))
    tokens = np.arange(40) % VOCABULARY
    hf.agrees(tmp_path / "m.gguf", tokens.tolist(), hf.truth(model, tokens))


def test_the_text_half(tmp_path: Path) -> None:
    """Names and config.json of Gemma3ForConditionalGeneration, whose vision tower is left out."""
    text = transformers.Gemma3TextConfig(**{**SIZES, "sliding_window": 8, "query_pre_attn_scalar": 24})
    vision = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
              "image_size": 32, "patch_size": 16}  # fmt: skip
    config = transformers.Gemma3Config(text_config=text, vision_config=vision, mm_tokens_per_image=1)
    model = hf.checkpoint(tmp_path / "hf", config, model=transformers.Gemma3ForConditionalGeneration)
    report = convert(tmp_path / "hf", tmp_path / "m.gguf", ConvertOptions("F32", no_vocab=True))
    assert any("only the text half is converted" in note for note in report.notes)
    tokens = np.arange(40) % (VOCABULARY - 4)
    exact = hf.truth(model, tokens)
    hf.agrees(tmp_path / "m.gguf", tokens.tolist(), exact)
    with gguf.open(tmp_path / "m.gguf") as file:
        assert file.metadata["general.architecture"] == "gemma3"


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"attn_logit_softcapping": 50.0}, "Gemma 3 has no cap of scores"),
        ({"hidden_activation": "silu"}, "hidden_act is 'silu'; this architecture has gelu_pytorch_tanh alone"),
        ({"layer_types": ["full_attention", "chunked_attention", "full_attention"]}, "it must have full_attention or"),
        ({"layer_types": ["full_attention"]}, "for each of 3 layers"),
        ({"rope_parameters": {**LINEAR, "sliding_attention": {"rope_type": "linear", "factor": 2.0}}},
         "positions of layers with a window are scaled"),
    ],
)  # fmt: skip
def test_what_no_file_can_say(changes: Any, match: str, tmp_path: Path) -> None:
    hf.checkpoint(tmp_path / "hf", transformers.Gemma3TextConfig(**SIZES))
    hf.config_json(tmp_path / "hf", **changes)
    with pytest.raises(GGUFError, match=match):
        convert(tmp_path / "hf", tmp_path / "m.gguf", ConvertOptions("F32", no_vocab=True))


@pytest.mark.parametrize("window", [6, 64])
def test_embeddings(tmp_path: Path, window: int) -> None:
    """EmbeddingGemma: windows to both sides."""
    config = transformers.Gemma3TextConfig(**{**SIZES, "sliding_window": window, "query_pre_attn_scalar": 24,
                                              "use_bidirectional_attention": True})  # fmt: skip
    values = hf.check_encoder(tmp_path, config, dtype=torch.bfloat16)
    assert values["general.architecture"] == "gemma-embedding"
    assert values["gemma-embedding.attention.sliding_window"] == window
