"""Checkpoints of 8-bit floats."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import storing
from storing import E2M1, E4M3, E5M2, bf16, decode, of_bf16, pairs, refused, same

FP8 = {"quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]}}
ROWS = {"quantization_config": {"quant_method": "fbgemm_fp8"}}
RNG = np.random.default_rng(0)


def codes(*shape: int) -> Any:
    """Bytes of numbers: none is NaN in E4M3."""
    made = RNG.integers(0, 256, shape).astype(np.uint8)
    return np.where(made & 0x7F == 0x7F, 0, made).astype(np.uint8)


def over(scales: Any, shape: tuple[int, ...], block: tuple[int, int]) -> Any:
    """A scale of each block for each number."""
    whole = scales.repeat(block[0], -2).repeat(block[1], -1)
    return whole[..., : shape[-2], : shape[-1]]


@pytest.mark.parametrize("shape", [(256, 384), (130, 160), (128, 64), (3, 100, 96)])
@pytest.mark.parametrize("kind", ["F32", "BF16", "F16"])
def test_blocks(shape: tuple[int, ...], kind: str) -> None:
    w = codes(*shape)
    s = (RNG.random((*shape[:-2], -(-shape[-2] // 128), -(-shape[-1] // 128))) * 0.01).astype(np.float32)
    raw = {"F32": s, "BF16": bf16(s), "F16": s.astype(np.float16)}[kind]
    s = {"F32": s, "BF16": of_bf16(bf16(s)), "F16": s.astype(np.float16).astype(np.float32)}[kind]
    name, made = decode(FP8, {"a.weight": ("F8_E4M3", w), "a.weight_scale_inv": (kind, raw)})
    assert name == "FP8"
    assert set(made) == {"a.weight"}
    assert same(made["a.weight"], E4M3[w] * over(s, shape, (128, 128)), "Q8_0", exact=False) < 0.005


def test_scales_of_rows_and_of_the_whole() -> None:
    w, s = codes(6, 64), (RNG.random(6) * 0.1).astype(np.float32)
    for given, by_row in ((s, s[:, None]), (s[:, None], s[:, None]), (s[:1], s[0]), (np.float32(s[0]), s[0])):
        for ending in ("_scale", "_scale_inv"):
            made = decode(ROWS, {"a.weight": ("F8_E4M3", w), f"a.weight{ending}": ("F32", given)})[1]
            same(made["a.weight"], E4M3[w] * by_row, "Q8_0", exact=False)
    made = decode(FP8, {"a.weight": ("F8_E5M2", w & 0x7B), "a.qscale_weight": ("F32", s[:1]),
                        "a.qscale_act": ("F32", s[:1])})[1]  # fmt: skip
    assert set(made) == {"a.weight"}
    same(made["a.weight"], E5M2[w & 0x7B] * s[0], "Q8_0", exact=False)
    w, s = codes(2, 4, 32), s[:2, None, None]
    experts = decode(FP8, {"e.up_proj": ("F8_E4M3", w), "e.up_proj_scale_inv": ("F32", s)})[1]
    same(experts["e.up_proj"], E4M3[w] * s, "Q8_0", exact=False)


def test_powers_of_two_are_without_loss_in_bf16() -> None:
    w, e = codes(256, 256), RNG.integers(100, 150, (2, 2)).astype(np.uint8)
    wanted = E4M3[w] * over(np.ldexp(np.float32(1), e.astype(int) - 127), w.shape, (128, 128))
    for dtype in ("F8_E8M0", "U8"):
        made = decode(FP8, {"a.weight": ("F8_E4M3", w), "a.weight_scale_inv": (dtype, e)})[1]
        same(made["a.weight"], wanted, "BF16")
    small = decode(FP8, {"a.weight": ("F8_E4M3", w), "a.weight_scale_inv": ("U8", np.full((2, 2), 1, np.uint8))})[1]
    assert small["a.weight"].exact is None  # the least of these are below what bfloat16 has


def test_pairs_of_four_bits() -> None:
    q, e = RNG.integers(0, 16, (8, 64)), RNG.integers(110, 130, (8, 2)).astype(np.uint8)
    wanted = E2M1[q] * np.ldexp(np.float32(1), e.astype(int) - 127).repeat(32, 1)
    made = decode(FP8, {"a.weight": ("I8", pairs(q).view(np.int8)), "a.weight_scale_inv": ("F8_E8M0", e)})[1]
    same(made["a.weight"], wanted, "MXFP4")


def test_weights_without_scales_and_without_a_config() -> None:
    w = codes(4, 32)
    name, made = decode({}, {"a.weight": ("F8_E4M3", w)})
    assert name == ""
    np.testing.assert_array_equal(made["a.weight"].to_numpy(), E4M3[w])
    name, made = decode({}, {"a.weight": ("F8_E4M3", w), "a.weight_scale": ("F32", np.float32(2))})
    assert name == "FP8"
    np.testing.assert_array_equal(made["a.weight"].to_numpy(), E4M3[w] * 2)


def encode(name: str, values: Any) -> Any:
    """Blocks of 128 × 128 with scales that put the largest on 448."""
    rows, columns = values.shape
    s = np.stack([[np.abs(values[i : i + 128, j : j + 128]).max() / 448 for j in range(0, columns, 128)]
                  for i in range(0, rows, 128)]).astype(np.float32)  # fmt: skip
    finite = np.where(np.isnan(E4M3), np.inf, E4M3)
    nearest = np.abs(values[..., None] / over(s, values.shape, (128, 128))[..., None] - finite).argmin(-1)
    tensors = {name: ("F8_E4M3", nearest.astype(np.uint8)), f"{name}_scale_inv": ("F32", s),
               name.replace(".weight", ".input_scale"): ("F32", np.float32(1))}  # fmt: skip
    return tensors, E4M3[nearest] * over(s, values.shape, (128, 128))


@pytest.mark.slow
def test_end_to_end(tmp_path: Path) -> None:
    notes = storing.end_to_end(tmp_path, encode, FP8, "Q8_0", 0.01)
    assert any("FP8" in note for note in notes)
    assert any("became the nearest" in note for note in notes)


def test_what_is_refused() -> None:
    w, s = ("F8_E4M3", codes(256, 256)), ("F32", np.ones((2, 2), np.float32))
    bad = {"quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 0]}}
    refused(bad, {"a.weight": w, "a.weight_scale_inv": s}, "weight_block_size")
    refused(FP8, {"a.weight": w, "a.weight_scale_inv": ("F32", np.ones((3, 2), np.float32))}, "no scales for")
    refused(FP8, {"a.weight": w, "a.weight_scale_inv": ("F32", np.ones((0, 2), np.float32))}, "no scales for")
    refused(FP8, {"a.weight": w, "a.weight_scale_inv": ("F32", np.ones((2, 2, 2, 2), np.float32))}, "no scales for")
    refused(FP8, {"a.weight": w, "a.weight_scale_inv": ("I32", np.ones((2, 2), np.int32))}, "scales are")
    refused(FP8, {"a.weight": w, "a.weight_scale_inv": s, "b.weight": w}, "'b.weight' is F8_E4M3 and has no scales")
    refused(FP8, {"a.weight": w, "a.weight_scale_inv": s, "a.weight_scale": s}, "twice")
    refused(FP8, {"a.weight_scale_inv": s}, "scales of no tensor")
    refused(FP8, {"a.weight": ("I8", np.ones((4, 4), np.int8)), "a.weight_scale_inv": s}, "4-bit floats")
