"""Checkpoints of compressed-tensors in each of its formats."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import storing
from storing import E2M1, E4M3, bf16, decode, of_bf16, pairs, refused, same, words

RNG = np.random.default_rng(0)
KINDS = {2: "Q4_0", 3: "Q4_0", 4: "Q4_0", 5: "Q5_0", 6: "Q8_0", 8: "Q8_0"}


def config(kind: str = "pack-quantized", **weights: Any) -> dict[str, Any]:
    group = {"targets": ["Linear"], "weights": {"num_bits": 4, "type": "int", **weights}, "input_activations": None}
    return {"quantization_config": {"quant_method": "compressed-tensors", "format": kind, "ignore": ["lm_head"],
                                    "config_groups": {"group_0": group}}}  # fmt: skip


def packed(shape: tuple[int, int], bits: int, group: int, zeros: bool = False, low: float = 1e-3) -> Any:
    """Tensors of a layer, its numbers, and its groups' zeros."""
    out, columns = shape
    q = RNG.integers(0, 1 << bits, shape)
    s = of_bf16(bf16(low * (1 + RNG.random((out, columns // group)))))
    z = RNG.integers(0, 1 << bits, s.shape) if zeros else np.full(s.shape, 1 << (bits - 1))
    tensors = {"a.weight_packed": ("I32", words(q, bits)), "a.weight_scale": ("BF16", bf16(s)),
               "a.weight_shape": ("I64", np.array(shape)),
               "a.input_global_scale": ("F32", np.ones(1, "f4"))}  # fmt: skip
    if zeros:
        tensors["a.weight_zero_point"] = ("I32", np.ascontiguousarray(words(z.T, bits).T))
    return tensors, ((q - z.repeat(group, 1)) * s.repeat(group, 1)).astype(np.float32)


@pytest.mark.parametrize("group", [32, 64, 128, 384])
@pytest.mark.parametrize(("bits", "kind"), KINDS.items())
def test_packed_around_zero(bits: int, kind: str, group: int) -> None:
    tensors, wanted = packed((5, 384), bits, group)
    name, made = decode(config(num_bits=bits), tensors)
    assert name == "compressed-tensors"
    assert set(made) == {"a.weight"}
    same(made["a.weight"], wanted, kind)


@pytest.mark.parametrize(
    ("bits", "kind", "few_kind"),
    [(2, "Q4_0", "Q4_0"), (3, "Q4_0", "Q4_0"), (4, "Q5_0", "Q4_1"), (5, "Q8_0", "Q5_1"), (8, "Q8_0", "Q8_0")],
)
def test_packed_with_zeros(bits: int, kind: str, few_kind: str) -> None:
    """Offsets s · z need more bits than f16 has, unless scales have few: then codes have a bit more."""
    tensors, wanted = packed((37, 128), bits, 32, zeros=True)
    made = decode(config(num_bits=bits, symmetric=False), tensors)[1]["a.weight"]
    assert same(made, wanted, kind, exact=bits < 8) < 0.005
    tensors, _ = packed((37, 128), bits, 32, zeros=True, low=2.0**-8)
    few = tensors["a.weight_scale"][1] & 0xFFE0
    made = decode(config(num_bits=bits, symmetric=False), {**tensors, "a.weight_scale": ("BF16", few)})[1]["a.weight"]
    same(made, made.to_numpy(), few_kind, exact=bits < 8)


def test_packed_scales_of_the_whole_and_ordered_columns() -> None:
    tensors, _ = packed((4, 64), 4, 64)
    q = np.arange(256).reshape(4, 64) % 16
    tensors |= {"a.weight_packed": ("I32", words(q, 4)), "a.weight_scale": ("F32", np.float32([0.5]))}
    same(decode(config(), tensors)[1]["a.weight"], (q - 8) * np.float32(0.5), "Q4_0")
    tensors, wanted = packed((4, 64), 4, 32)
    regular = np.arange(64) // 32
    for order in (regular, np.full(64, -1)):
        made = decode(config(), {**tensors, "a.weight_g_idx": ("I32", order.astype(np.int32))})[1]["a.weight"]
        same(made, wanted, "Q4_0")
    order = RNG.permutation(regular).astype(np.int32)
    q, s = RNG.integers(0, 16, (4, 64)), of_bf16(tensors["a.weight_scale"][1])
    tensors |= {"a.weight_packed": ("I32", words(q, 4)), "a.weight_g_idx": ("I32", order)}
    same(decode(config(), tensors)[1]["a.weight"], (q - 8) * s[:, order], "Q8_0", exact=False)


def test_scales_that_f16_has_not() -> None:
    tensors, wanted = packed((4, 64), 4, 32, low=1e-9)
    same(decode(config(), tensors)[1]["a.weight"], wanted, "Q4_0", exact=False)


@pytest.mark.parametrize("shape", [(256, 384), (130, 160)])
def test_floats_of_8_bits(shape: tuple[int, int]) -> None:
    w = RNG.integers(0, 0x7F, shape).astype(np.uint8)
    blocks = np.float32(RNG.random((-(-shape[0] // 128), -(-shape[1] // 128))))
    by_block = blocks.repeat(128, 0).repeat(128, 1)[: shape[0], : shape[1]]
    for s, each in ((blocks, by_block), (blocks[:1, :1], blocks[0, 0]), (np.float32(RNG.random((shape[0], 1))), None)):
        tensors = {"a.weight": ("F8_E4M3", w), "a.weight_scale": ("F32", s), "a.input_scale": ("F32", np.ones(1, "f4"))}
        made = decode(config("float-quantized", num_bits=8, type="float", block_structure=[128, 128]), tensors)[1]
        same(made["a.weight"], E4M3[w] * (s if each is None else each), "Q8_0", exact=False)


def test_whole_numbers_of_8_bits() -> None:
    w = RNG.integers(-128, 128, (6, 96)).astype(np.int8)
    s = of_bf16(bf16(0.01 * (1 + RNG.random((6, 1)))))
    tensors = {"a.weight": ("I8", w), "a.weight_scale": ("BF16", bf16(s))}
    for kind in ("int-quantized", "naive-quantized"):
        same(decode(config(kind, num_bits=8), tensors)[1]["a.weight"], w * s, "Q8_0")
    groups = of_bf16(bf16(0.01 * (1 + RNG.random((6, 3)))))
    made = decode(config(num_bits=8), {**tensors, "a.weight_scale": ("BF16", bf16(groups))})[1]["a.weight"]
    same(made, w * groups.repeat(32, 1), "Q8_0")
    z = RNG.integers(-3, 4, (6, 1)).astype(np.int8)
    made = decode(config(num_bits=8), {**tensors, "a.weight_zero_point": ("I8", z)})[1]["a.weight"]
    same(made, (w.astype(np.float32) - z) * s, "Q8_0", exact=False)
    odd = np.float32(0.01 * (1 + RNG.random((6, 1))))  # not of f16: the same codes, scales rounded
    made = decode(config(num_bits=8), {**tensors, "a.weight_scale": ("F32", odd)})[1]["a.weight"]
    assert same(made, w * odd, "Q8_0", exact=False) < 2.0**-11


def test_floats_of_4_bits() -> None:
    q = RNG.integers(0, 16, (6, 256))
    s = RNG.integers(0x30, 0x7F, (6, 16)).astype(np.uint8)
    for over, kind in ((1.0, "NVFP4"), (0.5, None), (321.0, "Q6_K")):
        factor = np.float32([over])
        tensors = {"a.weight_packed": ("U8", pairs(q)), "a.weight_scale": ("F8_E4M3", s),
                   "a.weight_global_scale": ("F32", factor)}  # fmt: skip
        made = decode(config("nvfp4-pack-quantized", type="float", group_size=16), tensors)[1]["a.weight"]
        wanted = E2M1[q] * (E4M3[s] / factor).repeat(16, 1)
        same(made, wanted, kind or "Q6_K", exact=kind == "NVFP4")
    e = RNG.integers(100, 140, (6, 8)).astype(np.uint8)
    tensors = {"a.weight_packed": ("U8", pairs(q)), "a.weight_scale": ("U8", e)}
    made = decode(config("mxfp4-pack-quantized"), tensors)[1]["a.weight"]
    same(made, E2M1[q] * np.ldexp(np.float32(1), e.astype(int) - 127).repeat(32, 1), "MXFP4")
    w = RNG.integers(0, 0x7F, (6, 256)).astype(np.uint8)
    tensors = {"a.weight": ("F8_E4M3", w), "a.weight_scale": ("U8", e)}
    made = decode(config("mxfp8-quantized", num_bits=8), tensors)[1]["a.weight"]
    same(made, E4M3[w] * np.ldexp(np.float32(1), e.astype(int) - 127).repeat(32, 1), "BF16")


def test_several_groups_of_layers() -> None:
    four, first = packed((4, 64), 4, 32)
    eight, second = packed((4, 64), 8, 64)
    said = config("mixed-precision")
    said["quantization_config"]["config_groups"]["group_1"] = {
        "targets": [r"re:.*down_proj$"], "format": "pack-quantized", "weights": {"num_bits": 8, "type": "int"},
    }  # fmt: skip
    tensors = {**four, **{f"b{name[1:]}": value for name, value in eight.items()}}
    tensors["lm_head.weight"] = ("BF16", bf16(first))
    made = decode(said, tensors)[1]
    same(made["a.weight"], first, "Q4_0")
    same(made["b.weight"], second, "Q8_0")
    assert not made["lm_head.weight"].quantised


def encode(name: str, values: Any) -> Any:
    """4 bits around zero in groups of 128, and layers of other formats among them."""
    s = of_bf16(bf16(np.abs(values.reshape(len(values), -1, 128)).max(2) / 7))
    q = np.clip(np.rint(values / s.repeat(128, 1)), -8, 7).astype(np.int64)
    base = name.removesuffix(".weight")
    tensors = {f"{base}.weight_packed": ("I32", words(q + 8, 4)), f"{base}.weight_scale": ("BF16", bf16(s)),
               f"{base}.weight_shape": ("I64", np.array(values.shape))}  # fmt: skip
    return tensors, (q * s.repeat(128, 1)).astype(np.float32)


@pytest.mark.slow
def test_end_to_end(tmp_path: Path) -> None:
    notes = storing.end_to_end(tmp_path, encode, config(group_size=128), "Q4_0")
    assert any("compressed-tensors" in note for note in notes)


def test_what_is_refused() -> None:
    tensors, _ = packed((4, 64), 4, 32)

    def without(name: str) -> Any:
        return {key: value for key, value in tensors.items() if key != name}

    def changed(name: str, dtype: str, values: Any) -> Any:
        return {**tensors, name: (dtype, values)}

    refused(config(), without("a.weight_scale"), "'a.weight_scale' is missing")
    refused(config(num_bits=3), without("a.weight_shape"), "'a.weight_shape' is missing")
    refused(config(), without("a.weight_packed"), "belongs to no weight")
    refused(config(), changed("a.weight_shape", "I64", np.array([4, 1 << 60])), "does not hold")
    refused(config(), changed("a.weight_shape", "I64", np.array([4, -64])), "does not hold")
    refused(config(), changed("a.weight_shape", "I64", np.array([4])), "must be [2]")
    refused(config(), changed("a.weight_packed", "I32", np.zeros((4, 9), np.int32)), "does not hold")
    refused(config(num_bits=8), tensors, "have 4 bits, and config.json says [8]")
    refused(config(), changed("a.weight_scale", "F32", np.ones((4, 3), np.float32)), "do not divide into")
    refused(config(), changed("a.weight_scale", "F32", np.ones((3, 2), np.float32)), "must be [1, 1]")
    refused(config(), changed("a.weight_scale", "I32", np.ones((4, 2), np.int32)), "must be F16")
    refused(config(), changed("a.weight_zero_point", "I32", np.ones((4, 2), np.int32)), "must be [1, 2]")
    refused(config(), changed("a.weight_g_idx", "I32", np.full(64, 2, np.int32)), "names groups")
    refused(config(), changed("a.weight_g_idx", "I32", np.array([-1, *[0] * 63], np.int32)), "without a group")
    refused(config(), changed("a.weight", "BF16", np.zeros((4, 64), np.uint16)), "both")
    for kind in ("marlin-24", "sparse-24-bitmask", "mxfp6-pack-quantized", 7):
        refused(config(kind), tensors, "config.json: quantization_config.format")
    said = config()["quantization_config"]
    for bad in ({"config_groups": [1]}, {"config_groups": {"a": 1}}, {"sparsity_config": {"format": "sparse-bitmask"}},
                {"transform_config": {"config_groups": {"u": {}}}},
                {"config_groups": {"a": {"weights": {"block_structure": "128x128"}}}}):  # fmt: skip
        refused({"quantization_config": {**said, **bad}}, tensors, "config.json")
    refused(config(), {"a.weight": ("I8", np.ones((4, 32), np.int8))}, "'a.weight_scale' is missing")
    zeros = {"a.weight": ("F8_E4M3", np.ones((4, 32), np.uint8)), "a.weight_scale": ("F32", np.ones((4, 1), "f4")),
             "a.weight_zero_point": ("I8", np.ones((4, 1), np.int8))}  # fmt: skip
    refused(config("float-quantized"), zeros, "not all 0")
