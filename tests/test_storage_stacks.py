"""Stacks of experts in compressed-tensors and ModelOpt."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from storing import E2M1, E4M3, bf16, decode, of_bf16, pairs, refused, same, words
from test_storage_experts import MODELS, checkpoint, converted, equal, plain
from test_storage_mxfp4 import AT, GPT_OSS, gpt_oss

RNG = np.random.default_rng(0)


# -- compressed-tensors ----------------------------------------------------------------------------------------


def compressed(kind: str = "pack-quantized", **weights: Any) -> dict[str, Any]:
    group = {"targets": ["Linear"], "weights": {"num_bits": 4, "type": "int", **weights}}
    return {"quantization_config": {"quant_method": "compressed-tensors", "format": kind,
                                    "config_groups": {"group_0": group}}}  # fmt: skip


SPELLINGS = (".weight_", "_weight_", "_")
STACK = "model.layers.0.mlp.experts.gate_up_proj"


def packed(shape: tuple[int, ...], bits: int, zeros: bool = False) -> Any:
    """Parts of a stack in groups of 32, (experts, out, in), and its numbers."""
    q = RNG.integers(0, 1 << bits, shape)
    s = of_bf16(bf16(1e-3 * (1 + RNG.random((*shape[:-1], shape[-1] // 32)))))
    z = RNG.integers(0, 1 << bits, s.shape) if zeros else np.full(s.shape, 1 << (bits - 1))
    parts = {"packed": ("I32", words(q, bits)), "scale": ("BF16", bf16(s))}
    if zeros:
        parts["zero_point"] = ("I32", np.ascontiguousarray(words(z.swapaxes(1, 2), bits).swapaxes(1, 2)))
    return parts, ((q - z.repeat(32, -1)) * s.repeat(32, -1)).astype(np.float32)


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_packed_stacks(spelling: str) -> None:
    parts, wanted = packed((3, 10, 64), 4)
    tensors = {f"{STACK}{spelling}{part}": value for part, value in parts.items()}
    name, made = decode(compressed(), tensors)
    assert name == "compressed-tensors"
    assert set(made) == {f"{STACK}.weight"}
    same(made[f"{STACK}.weight"], wanted, "Q4_0")
    for shape in ([10, 64], [3, 10, 64], [[10, 64]] * 3):
        tensors[f"{STACK}{spelling}shape"] = ("I64", np.array(shape))
        same(decode(compressed(), tensors)[1][f"{STACK}.weight"], wanted, "Q4_0")
    order = np.arange(64) // 32
    tensors[f"{STACK}{spelling}g_idx"] = ("I32", np.stack([order] * 3).astype(np.int32))
    same(decode(compressed(), tensors)[1][f"{STACK}.weight"], wanted, "Q4_0")


def test_packed_stacks_with_zeros_and_odd_bits() -> None:
    parts, wanted = packed((2, 32, 96), 4, zeros=True)
    tensors = {f"{STACK}_{part}": value for part, value in parts.items()}
    same(decode(compressed(symmetric=False), tensors)[1][f"{STACK}.weight"], wanted, "Q5_0")
    parts, wanted = packed((2, 7, 64), 3)
    tensors = {f"{STACK}_{part}": value for part, value in parts.items()}
    refused(compressed(num_bits=3), tensors, "weight_shape' is missing")
    tensors[f"{STACK}_shape"] = ("I64", np.array([7, 64]))
    same(decode(compressed(num_bits=3), tensors)[1][f"{STACK}.weight"], wanted, "Q4_0")


def fours(shape: tuple[int, ...], factor: Any, low: int = 0x30) -> Any:
    """Codes, scales (bytes) and numbers of NVFP4, (experts, out, in), with `factor` multiplied."""
    q = RNG.integers(0, 16, shape)
    s = RNG.integers(low, 0x7F, (*shape[:-1], shape[-1] // 16)).astype(np.uint8)
    return q, s, E2M1[q] * (E4M3[s] * np.float32(factor)).repeat(16, -1)


@pytest.mark.parametrize("factors", [(3, 2), (3, 1), (3,), (1,)])
def test_stacks_of_four_bit_floats(factors: tuple[int, ...]) -> None:
    over = np.float32(RNG.uniform(50, 400, factors))
    by_row = over.reshape(-1, over.size // len(over)).repeat(6 * len(over) // over.size, 1)  # (experts or 1, 6)
    q, s, _ = fours((3, 6, 256), 1)
    wanted = E2M1[q] * (E4M3[s] / by_row[..., None]).repeat(16, -1)
    tensors = {f"{STACK}.weight_packed": ("U8", pairs(q)), f"{STACK}.weight_scale": ("F8_E4M3", s),
               f"{STACK}.weight_global_scale": ("F32", over), f"{STACK}.input_global_scale": ("F32", over)}  # fmt: skip
    made = decode(compressed("nvfp4-pack-quantized", type="float"), tensors)[1]
    assert set(made) == {f"{STACK}.weight"}
    same(made[f"{STACK}.weight"], wanted, "Q6_K", exact=False)
    tensors[f"{STACK}.weight_global_scale"] = ("F32", np.ones(factors, np.float32))
    made = decode(compressed("nvfp4-pack-quantized", type="float"), tensors)[1]
    same(made[f"{STACK}.weight"], E2M1[q] * E4M3[s].repeat(16, -1), "NVFP4")
    e = RNG.integers(100, 140, (3, 6, 8)).astype(np.uint8)
    tensors = {f"{STACK}_packed": ("U8", pairs(q)), f"{STACK}_scale": ("U8", e)}
    made = decode(compressed("mxfp4-pack-quantized", type="float"), tensors)[1]
    same(made[f"{STACK}.weight"], E2M1[q] * np.ldexp(np.float32(1), e.astype(int) - 127).repeat(32, -1), "MXFP4")


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_stacks_of_eight_bits(spelling: str) -> None:
    """They lie as in a checkpoint of floats, and keep its names."""
    name = f"{STACK}.weight" if spelling == ".weight_" else STACK
    w = RNG.integers(-128, 128, (2, 6, 64)).astype(np.int8)
    s = of_bf16(bf16(0.01 * (1 + RNG.random((2, 6, 1)))))
    tensors = {name: ("I8", w), f"{STACK}{spelling}scale": ("BF16", bf16(s))}
    made = decode(compressed("int-quantized", num_bits=8), tensors)[1]
    assert set(made) == {name}
    same(made[name], w * s, "Q8_0")
    f = RNG.integers(0, 0x7F, (2, 6, 64)).astype(np.uint8)
    tensors[name] = ("F8_E4M3", f)
    same(decode(compressed("float-quantized", num_bits=8), tensors)[1][name], E4M3[f] * s, "Q8_0", exact=False)


def test_stacks_that_are_refused() -> None:
    parts, _ = packed((3, 10, 64), 4)
    tensors = {f"{STACK}_{part}": value for part, value in parts.items()}
    refused({**compressed(), "model_type": "gpt_oss"}, tensors, "take single experts")
    refused(compressed(), {**tensors, f"{STACK}_weight_scale": parts["scale"]}, "is there twice")
    refused(compressed(), {f"{STACK}_scale": parts["scale"]}, "belongs to no weight")
    refused(compressed(), {f"{STACK}_packed": parts["packed"]}, "weight_scale' is missing")
    refused(compressed(), {**tensors, f"{STACK}_scale": ("F32", np.ones((2, 10, 2), np.float32))}, "of 3 experts")
    refused(compressed(), {**tensors, f"{STACK}_shape": ("I64", np.array([11, 64]))}, "does not hold")
    refused(compressed(), {**tensors, f"{STACK}_packed": ("I32", np.zeros((0, 10, 8), np.int32))}, "must be [n, n]")


@pytest.mark.slow
def test_compressed_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stacks of 4 bits become blocks as they are, gate and up apart."""
    config, tensors = checkpoint(MODELS["qwen3moe"], tmp_path, monkeypatch)
    made, meant = dict[str, Any](), dict(tensors)
    for i in range(config["num_hidden_layers"]):
        at = f"model.layers.{i}.mlp.experts."
        for name in [name for name in meant if name.startswith(at)]:
            del meant[name]
        for name, shape in (("gate_up_proj", (6, 64, 64)), ("down_proj", (6, 64, 32))):
            parts, numbers = packed(shape, 4)
            made |= {f"{at}{name}_{part}": value for part, value in parts.items()}
            meant[f"{at}{name}"] = numbers
    made |= {name: ("F32", x) for name, x in meant.items() if ".experts." not in name}
    wanted, _, _ = converted(tmp_path / "a", plain(meant), config)
    got, _, _ = converted(tmp_path / "b", made, config | compressed(), outtype="auto", keep=True)
    equal(wanted, got)
    assert got["blk.1.ffn_up_exps.weight"][0] == "Q4_0"


# -- ModelOpt --------------------------------------------------------------------------------------------------

MODELOPT = {"quantization_config": {"quant_method": "modelopt", "quant_algo": "NVFP4"}}


@pytest.mark.parametrize("turned", [True, False])
@pytest.mark.parametrize("factors", [(), (1,), (3,), (3, 1)])
def test_stacks_of_nvfp4(factors: tuple[int, ...], turned: bool) -> None:
    """(experts, in / 2, out) as its export turns them, or (experts, out, in / 2)."""
    factor = np.float32(RNG.uniform(0.001, 0.02, factors))
    q, s, wanted = fours((3, 20, 256), factor.reshape(-1, 1, 1))
    codes, scales = (np.ascontiguousarray(x.swapaxes(1, 2)) if turned else x for x in (pairs(q), s))
    tensors = {STACK: ("U8", codes), f"{STACK}_weight_scale": ("F8_E4M3", scales),
               f"{STACK}_weight_scale_2": ("F32", factor), f"{STACK}_input_scale": ("F32", np.float32(1)),
               f"{STACK}_bias": ("BF16", bf16(np.ones((3, 20))))}  # fmt: skip
    made = decode(MODELOPT, tensors)[1]
    assert set(made) == {f"{STACK}.weight", f"{STACK}_bias"}
    same(made[f"{STACK}.weight"], wanted, "Q6_K", exact=False)
    tensors[f"{STACK}_weight_scale_2"] = ("F32", np.full(factors, 1, np.float32))
    same(decode(MODELOPT, tensors)[1][f"{STACK}.weight"], E2M1[q] * E4M3[s].repeat(16, -1), "NVFP4")


def test_stacks_of_nvfp4_that_are_refused() -> None:
    q, s, _ = fours((3, 20, 64), 1)
    tensors = {STACK: ("U8", pairs(q)), f"{STACK}_weight_scale": ("F8_E4M3", s),
               f"{STACK}_weight_scale_2": ("F32", np.float32(1))}  # fmt: skip
    for missing in (STACK, f"{STACK}_weight_scale"):
        refused(MODELOPT, {name: value for name, value in tensors.items() if name != missing}, "is missing")
    refused(MODELOPT, {**tensors, f"{STACK}_weight_scale": ("F8_E4M3", s[:, :4])}, "whichever way round")
    refused(MODELOPT, {**tensors, f"{STACK}_weight_scale_2": ("F32", np.ones(2, np.float32))}, "of 3 experts")
    refused(MODELOPT, {**tensors, f"{STACK}_weight_scale_2": ("F32", np.zeros(3, np.float32))}, "which is no scale")
    refused(MODELOPT, {**tensors, f"{STACK}_pre_quant_scale": ("F32", np.ones(64, np.float32))}, "a layer's input")
    lost = {f"{STACK}_weight_scale": ("F32", np.float32(1)), "a.weight": ("F8_E4M3", np.zeros((2, 2), np.uint8))}
    refused(MODELOPT, lost, "scales of no tensor")


def test_stacks_of_eight_bit_floats_with_scales_of_each_column_or_row() -> None:
    f = RNG.integers(0, 0x7F, (2, 6, 64)).astype(np.uint8)
    s = np.float32(RNG.random((2, 64)))
    for given, each in ((np.float32(0.5), 0.5), (s[:, None], s[:, None]), (s, s[:, None]), (s[:, :6], s[:, :6, None])):
        tensors = {STACK: ("F8_E4M3", f), f"{STACK}_weight_scale": ("F32", given)}
        made = decode({"quantization_config": {"quant_method": "modelopt", "quant_algo": "FP8"}}, tensors)[1]
        assert set(made) == {STACK}
        np.testing.assert_array_equal(made[STACK].to_numpy(), E4M3[f] * np.float32(each))
    square = {STACK: ("F8_E4M3", f[:, :, :6]), f"{STACK}_weight_scale": ("F32", s[:, :6])}
    refused({"quantization_config": {"quant_method": "modelopt"}}, square, "no scales for")


@pytest.mark.slow
@pytest.mark.parametrize("factor", [1.0, 0.0123])
def test_modelopt_gpt_oss(factor: float, tmp_path: Path) -> None:
    kept, floats = gpt_oss()
    made = {name: value for name, value in kept.items() if not name.endswith(("_blocks", "_scales"))}
    for name, shape in (("gate_up_proj", (3, 64, 64)), ("down_proj", (3, 64, 32))):
        q, s, wanted = fours(shape, factor)
        floats[f"{AT}{name}"] = ("F32", wanted.swapaxes(1, 2))
        made |= {
            f"{AT}{name}": ("U8", pairs(q).swapaxes(1, 2)),
            f"{AT}{name}_weight_scale": ("F8_E4M3", s.swapaxes(1, 2)),
            f"{AT}{name}_weight_scale_2": ("F32", np.float32(factor)),
            f"{AT}{name}_input_scale": ("F32", np.float32(1)),
        }
    wanted, _, _ = converted(tmp_path / "a", floats, GPT_OSS)
    equal(wanted, converted(tmp_path / "b", made, GPT_OSS | MODELOPT)[0])
    auto, _, _ = converted(tmp_path / "c", made, GPT_OSS | MODELOPT, outtype="auto")
    kind = auto["blk.0.ffn_gate_exps.weight"][0]
    assert kind == ("NVFP4" if factor == 1 else "Q8_0")
    if factor == 1:  # down_proj has no whole blocks
        for key in ("blk.0.ffn_gate_exps.weight", "blk.0.ffn_up_exps.weight"):
            np.testing.assert_array_equal(auto[key][1], wanted[key][1])
