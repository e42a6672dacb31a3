"""Checkpoints of mlx-lm."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import storing
from storing import E2M1, E4M3, bf16, decode, of_bf16, pairs, refused, same, words

RNG = np.random.default_rng(0)


def config(bits: int = 4, group: int = 64, **more: Any) -> dict[str, Any]:
    said = {"group_size": group, "bits": bits, **more}
    return {"quantization": said, "quantization_config": said}


def affine(shape: tuple[int, ...], bits: int, group: int, low: float = 0.01, name: str = "a") -> Any:
    q = RNG.integers(0, 1 << bits, shape)
    small = (*shape[:-1], shape[-1] // group)
    s, b = (of_bf16(bf16(low * RNG.uniform(0.2, 1, small) * RNG.choice([-1, 1], small))) for _ in range(2))
    tensors = {f"{name}.weight": ("U32", words(q, bits)), f"{name}.scales": ("BF16", bf16(s)),
               f"{name}.biases": ("BF16", bf16(b))}  # fmt: skip
    return tensors, q.astype(np.float32) * s.repeat(group, -1) + b.repeat(group, -1)


@pytest.mark.parametrize("group", [32, 64, 128])
@pytest.mark.parametrize("bits", [1, 2, 3, 4, 5, 6, 8])
def test_affine(bits: int, group: int) -> None:
    tensors, wanted = affine((5, 384), bits, group)
    name, made = decode(config(bits, group), tensors)
    assert name == "MLX"
    assert set(made) == {"a.weight"}
    kind = "Q4_1" if bits <= 4 else "Q5_1" if bits == 5 else "Q8_0"
    same(made["a.weight"], wanted, kind, exact=bits <= 5)
    tensors, wanted = affine((2, 3, 128), bits, group)
    same(decode(config(bits, group), tensors)[1]["a.weight"], wanted, kind, exact=bits <= 5)


def test_scales_that_f16_has_not() -> None:
    tensors, wanted = affine((4, 128), 4, 64, low=1e-7)
    same(decode(config(), tensors)[1]["a.weight"], wanted, "Q4_1", exact=False)


@pytest.mark.parametrize("mode", ["mxfp4", "mxfp8", "nvfp4"])
def test_small_floats(mode: str) -> None:
    q = RNG.integers(0, 16 if mode != "mxfp8" else 0x7F, (4, 128))
    e = RNG.integers(100, 140, (4, 4)).astype(np.uint8)
    by_group = np.ldexp(np.float32(1), e.astype(int) - 127).repeat(32, 1)
    if mode == "nvfp4":
        e = RNG.integers(0, 0x7F, (4, 8)).astype(np.uint8)
        by_group = E4M3[e].repeat(16, 1)
    raw = (q.astype(np.uint8) if mode == "mxfp8" else pairs(q)).view("<u4")
    tensors = {"a.weight": ("U32", raw), "a.scales": ("U8", e), "a.bias": ("F32", np.ones(4, np.float32))}
    group, bits = (16 if mode == "nvfp4" else 32), (8 if mode == "mxfp8" else 4)
    made = decode(config(bits, group, mode=mode), tensors)[1]
    assert set(made) == {"a.weight", "a.bias"}
    wanted = (E4M3 if mode == "mxfp8" else E2M1)[q] * by_group
    same(made["a.weight"], wanted, {"mxfp4": "MXFP4", "mxfp8": "BF16", "nvfp4": "NVFP4"}[mode])


def test_the_largest_number() -> None:
    """global_scale is what 6 · 448 stands for, of all experts or of each."""
    q, s = RNG.integers(0, 16, (3, 4, 128)), RNG.integers(0x30, 0x7F, (3, 4, 8)).astype(np.uint8)
    largest = np.float32([0.3, 1.7, 5.9])
    numbers = E2M1[q] * (E4M3[s] * (largest / np.float32(2688))[:, None, None]).repeat(16, -1)
    at = "layers.0.mlp.switch_mlp.up_proj"
    tensors = {f"{at}.weight": ("U32", pairs(q).view("<u4")), f"{at}.scales": ("U8", s),
               f"{at}.global_scale": ("F32", largest)}  # fmt: skip
    made = decode(config(4, 16, mode="nvfp4"), tensors)[1]
    for i in range(3):
        same(made[f"layers.0.mlp.experts.{i}.up_proj.weight"], numbers[i], "Q8_0", exact=False)
    one = {"a.weight": ("U32", pairs(q[1]).view("<u4")), "a.scales": ("U8", s[1]),
           "a.global_scale": ("F32", largest[1])}  # fmt: skip
    same(decode(config(4, 16, mode="nvfp4"), one)[1]["a.weight"], numbers[1], "Q8_0", exact=False)
    refused(config(4, 16, mode="nvfp4"), {**tensors, f"{at}.global_scale": ("F32", largest[:2])}, "of 3 experts")


def test_layers_of_their_own() -> None:
    first, one = affine((4, 128), 4, 64)
    second, two = affine((4, 128), 5, 32, name="b")
    third, three = affine((4, 128), 3, 64, name="c")
    said = config(4, 64, mode="affine")
    said["quantization"] |= {"b": {"bits": 5, "group_size": 32}, "c": {"bits": 3}, "d": False}
    tensors = {**first, **second, **third, "d.weight": ("F16", np.ones((4, 64), np.float16))}
    made = decode(said, tensors)[1]
    same(made["a.weight"], one, "Q4_1")
    same(made["b.weight"], two, "Q5_1")
    same(made["c.weight"], three, "Q4_1")
    assert not made["d.weight"].quantised


def test_stacks_of_experts_come_apart() -> None:
    at = "model.layers.0.mlp"
    tensors, wanted = affine((3, 4, 128), 4, 64, name=f"{at}.switch_mlp.up_proj")
    made = decode(config(), tensors)[1]
    assert set(made) == {f"{at}.experts.{i}.up_proj.weight" for i in range(3)}
    for i in range(3):
        same(made[f"{at}.experts.{i}.up_proj.weight"], wanted[i], "Q4_1")
    plain = {"model.layers.0.block_sparse_moe.switch_mlp.gate_proj.weight": ("F32", np.ones((2, 3, 4), np.float32))}
    made = decode({}, plain)[1]
    assert set(made) == {f"model.layers.0.block_sparse_moe.experts.{i}.w1.weight" for i in range(2)}


def encode(name: str, values: Any) -> Any:
    """4 bits with offsets in groups of 64."""
    groups = values.reshape(len(values), -1, 64)
    b = of_bf16(bf16(groups.min(2)))
    s = of_bf16(bf16((groups.max(2) - groups.min(2)) / 15))
    q = np.clip(np.rint((groups - b[..., None]) / s[..., None]), 0, 15).astype(np.int64).reshape(values.shape)
    base = name.removesuffix(".weight")
    tensors = {name: ("U32", words(q, 4)), f"{base}.scales": ("BF16", bf16(s)), f"{base}.biases": ("BF16", bf16(b))}
    return tensors, q.astype(np.float32) * s.repeat(64, 1) + b.repeat(64, 1)


@pytest.mark.slow
def test_end_to_end(tmp_path: Path) -> None:
    notes = storing.end_to_end(tmp_path, encode, config(), "Q4_1")
    assert any("MLX" in note for note in notes)


def test_what_is_refused() -> None:
    tensors, _ = affine((4, 128), 4, 64)
    for bad in ({"bits": 7}, {"bits": True}, {"group_size": 48}, {"mode": "other"}, {"mode": ["affine"]},
                {"mode": "mxfp4"}, {"a": 3}, {"a": {"bits": 9}}):  # fmt: skip
        refused(config(**{"bits": 4, "group": 64, **bad}), tensors, "config.json: quantization")
    refused(config(), {k: v for k, v in tensors.items() if k != "a.biases"}, "'a.biases' is missing")
    refused(config(), {k: v for k, v in tensors.items() if k != "a.weight"}, "'a.weight' is missing")
    refused(config(), {**tensors, "a.weight": ("F32", np.ones((4, 16), np.float32))}, "must be U32")
    refused(config(), {**tensors, "a.weight": ("U32", np.ones((4, 15), np.uint32))}, "no matrix of 4 bits")
    refused(config(), {**tensors, "a.weight": ("U32", np.ones((), np.uint32))}, "no matrix of 4 bits")
    refused(config(), {**tensors, "a.scales": ("BF16", np.ones((4, 3), np.uint16))}, "must be [4, 2]")
    del tensors["a.biases"]
    refused(config(4, 32, mode="mxfp4"), tensors, "must be U8")
