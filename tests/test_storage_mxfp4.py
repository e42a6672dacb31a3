"""Experts of gpt-oss in MXFP4, and blocks of 4-bit floats in general."""

from __future__ import annotations

from typing import Any

import numpy as np
from storing import E2M1, bf16, decode, pairs, refused, same

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


def test_what_is_refused() -> None:
    blocks, e, _ = experts(2, 4, 64)
    refused(CONFIG, {"a_blocks": ("U8", blocks)}, "'a_scales' is missing")
    refused(CONFIG, {"a_scales": ("U8", e)}, "'a_blocks' is missing")
    refused(CONFIG, {"a_blocks": ("U8", blocks), "a_scales": ("U8", e[:, :3])}, "must be [2, 4, 2]")
    refused(CONFIG, {"a_blocks": ("U8", blocks), "a_scales": ("F32", e.astype(np.float32))}, "F8_E8M0 or U8")
    refused(CONFIG, {"a_blocks": ("U8", blocks[..., :8]), "a_scales": ("U8", e)}, "no blocks of 32")
    refused(CONFIG, {"a_blocks": ("F32", np.ones((2, 2, 16), np.float32)), "a_scales": ("U8", e)}, "no blocks of 32")
