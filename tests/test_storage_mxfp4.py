"""Experts of gpt-oss in MXFP4, and blocks of 4-bit floats in general."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import storing
from storing import E2M1, bf16, decode, pairs, refused, same

from ggufpy import format as gguf
from ggufpy.convert import ConvertOptions, convert

CONFIG = {"quantization_config": {"quant_method": "mxfp4", "modules_to_not_convert": ["model.embed_tokens"]}}
RNG = np.random.default_rng(0)
AT = "model.layers.0.mlp.experts."


def experts(*shape: int) -> Any:
    """Codes (experts, out, in), blocks and scales, and the numbers."""
    q = RNG.integers(0, 16, shape)
    e = RNG.integers(90, 140, (*shape[:-1], shape[-1] // 32)).astype(np.uint8)
    blocks = pairs(q).reshape(*shape[:-1], shape[-1] // 32, 16)
    return blocks, e, E2M1[q] * np.ldexp(np.float32(1), e.astype(int) - 127).repeat(32, -1)


def test_experts() -> None:
    blocks, e, wanted = experts(3, 10, 96)
    bias = bf16(RNG.standard_normal((3, 10)))
    tensors = {f"{AT}gate_up_proj_blocks": ("U8", blocks), f"{AT}gate_up_proj_scales": ("U8", e),
               f"{AT}gate_up_proj_bias": ("BF16", bias)}  # fmt: skip
    for config in (CONFIG, {}):
        name, made = decode(config, tensors)
        assert name == "MXFP4"
        assert set(made) == {f"{AT}gate_up_proj.weight", f"{AT}gate_up_proj_bias"}
        same(made[f"{AT}gate_up_proj.weight"], wanted, "MXFP4")
        assert not made[f"{AT}gate_up_proj_bias"].quantised


def test_the_least_and_the_largest_scales() -> None:
    q = np.arange(64).reshape(2, 1, 32) % 16
    for e in (0, 1, 2, 252):
        scales = np.full((2, 1, 1), e, np.uint8)
        tensors = {"a_blocks": ("U8", pairs(q).reshape(2, 1, 1, 16)), "a_scales": ("U8", scales)}
        same(decode(CONFIG, tensors)[1]["a.weight"], E2M1[q] * np.ldexp(np.float32(1), e - 127), "MXFP4")
    tensors["a_scales"] = ("U8", np.full((2, 1, 1), 255, np.uint8))
    assert decode(CONFIG, tensors)[1]["a.weight"].exact is None  # NaN


GPT_OSS = {
    "architectures": ["GptOssForCausalLM"], "model_type": "gpt_oss", "hidden_size": 64, "intermediate_size": 32,
    "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 32, "vocab_size": 40,
    "num_local_experts": 3, "num_experts_per_tok": 2, "sliding_window": 16, "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5, "layer_types": ["sliding_attention"], "tie_word_embeddings": False,
    "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
}  # fmt: skip


def gpt_oss() -> tuple[storing.Tensors, storing.Tensors]:
    """All tensors of a tiny model, its experts as blocks, and as floats (experts, in, out)."""
    at = "model.layers.0."
    shapes = {"model.embed_tokens.weight": (40, 64), "model.norm.weight": (64,), "lm_head.weight": (40, 64),
              f"{at}input_layernorm.weight": (64,), f"{at}post_attention_layernorm.weight": (64,),
              f"{at}self_attn.sinks": (2,), f"{at}mlp.router.weight": (3, 64), f"{at}mlp.router.bias": (3,),
              f"{AT}gate_up_proj_bias": (3, 64), f"{AT}down_proj_bias": (3, 64)}  # fmt: skip
    for name, rows, columns in (("q", 64, 64), ("k", 32, 64), ("v", 32, 64), ("o", 64, 64)):
        shapes |= {f"{at}self_attn.{name}_proj.weight": (rows, columns), f"{at}self_attn.{name}_proj.bias": (rows,)}
    rest: storing.Tensors = {name: ("BF16", bf16(RNG.standard_normal(shape) / 8)) for name, shape in shapes.items()}
    kept, floats = dict(rest), dict(rest)
    for name, rows, columns in (("gate_up_proj", 64, 64), ("down_proj", 64, 32)):
        blocks, e, wanted = experts(3, rows, columns)
        kept |= {f"{AT}{name}_blocks": ("U8", blocks), f"{AT}{name}_scales": ("U8", e)}
        floats[f"{AT}{name}"] = ("F32", wanted.swapaxes(1, 2))
    return kept, floats


@pytest.mark.slow
def test_end_to_end(tmp_path: Path) -> None:
    """Blocks stay as they are, rows of gate and up apart, and are the numbers of the checkpoint of floats."""
    kept, floats = gpt_oss()
    for name, tensors, options in (
        ("kept", kept, ConvertOptions(no_vocab=True, keep=True)), ("auto", kept, ConvertOptions(no_vocab=True)),
        ("plain", floats, ConvertOptions("F32", no_vocab=True)),
    ):  # fmt: skip
        path = storing.folder(tmp_path / name, tensors, GPT_OSS | (CONFIG if name != "plain" else {}))
        report = convert(path, tmp_path / f"{name}.gguf", options)
        assert any("3 as MXFP4" in note for note in report.notes) == (name != "plain")
    with gguf.open(tmp_path / "plain.gguf") as plain:
        for name in ("kept", "auto"):
            with gguf.open(tmp_path / f"{name}.gguf") as file:
                assert set(file.tensors) == set(plain.tensors)
                for key, tensor in file.tensors.items():
                    assert (tensor.type == "MXFP4") == ("_exps.weight" in key), key
                    np.testing.assert_array_equal(tensor.to_numpy(), plain.tensors[key].to_numpy())


def test_what_is_refused() -> None:
    blocks, e, _ = experts(2, 4, 64)
    refused(CONFIG, {"a_blocks": ("U8", blocks)}, "'a_scales' is missing")
    refused(CONFIG, {"a_scales": ("U8", e)}, "'a_blocks' is missing")
    refused(CONFIG, {"a_blocks": ("U8", blocks), "a_scales": ("U8", e[:, :3])}, "must be [2, 4, 2]")
    refused(CONFIG, {"a_blocks": ("U8", blocks), "a_scales": ("F32", e.astype(np.float32))}, "F8_E8M0 or U8")
    refused(CONFIG, {"a_blocks": ("U8", blocks[..., :8]), "a_scales": ("U8", e)}, "no blocks of 32")
    refused(CONFIG, {"a_blocks": ("F32", np.ones((2, 2, 16), np.float32)), "a_scales": ("U8", e)}, "no blocks of 32")
