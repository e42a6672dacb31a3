"""Storage formats against the libraries that they are of: transformers, compressed-tensors, MLX, ml_dtypes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import storing
from storing import E4M3, E5M2, bf16, decode, of_bf16

from ggufpy.convert.safetensors import floats_of_eight

pytestmark = pytest.mark.oracle
RNG = np.random.default_rng(0)
HALF_STEP = 2.0**-8  # of a number, that rounding to bfloat16 moves it by at most


def as_torch(dtype: str, values: Any) -> Any:
    torch = pytest.importorskip("torch")
    views = {"BF16": "bfloat16", "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2"}
    made = torch.from_numpy(np.ascontiguousarray(values))
    return made.view(getattr(torch, views[dtype])) if dtype in views else made


def test_floats_of_8_bits() -> None:
    types = pytest.importorskip("ml_dtypes")
    codes = np.arange(256, dtype=np.uint8)
    for dtype, own, table in (("F8_E4M3", types.float8_e4m3fn, E4M3), ("F8_E5M2", types.float8_e5m2, E5M2)):
        wanted = codes.view(own).astype(np.float32)
        np.testing.assert_array_equal(floats_of_eight(dtype), wanted)
        np.testing.assert_array_equal(table[np.isfinite(wanted)], wanted[np.isfinite(wanted)])
    np.testing.assert_array_equal(storing.E2M1, np.arange(16, dtype=np.uint8).view(types.float4_e2m1fn).astype("f4"))


@pytest.mark.parametrize("kind", ["F32", "BF16", "U8"])
def test_fp8_as_transformers(kind: str) -> None:
    fp8 = pytest.importorskip("transformers.integrations.finegrained_fp8")
    torch = pytest.importorskip("torch")
    w = RNG.integers(0, 0x7F, (256, 384)).astype(np.uint8)
    s = (0.01 * RNG.random((2, 3))).astype(np.float32)
    raw = {"F32": s, "BF16": bf16(s), "U8": RNG.integers(110, 140, (2, 3)).astype(np.uint8)}[kind]
    config = {"quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]}}
    made = decode(config, {"a.weight": ("F8_E4M3", w), "a.weight_scale_inv": (kind, raw)})[1]["a.weight"].to_numpy()
    own = fp8.Fp8Dequantize(None)._dequantize_one(as_torch("F8_E4M3", w), as_torch(kind, raw), torch.float32)
    np.testing.assert_array_equal(made, own.numpy())


def test_experts_as_transformers() -> None:
    mxfp4 = pytest.importorskip("transformers.integrations.mxfp4")
    torch = pytest.importorskip("torch")
    blocks = RNG.integers(0, 256, (3, 8, 4, 16)).astype(np.uint8)
    scales = RNG.integers(100, 140, (3, 8, 4)).astype(np.uint8)
    own = mxfp4.convert_moe_packed_tensors(torch.from_numpy(blocks), torch.from_numpy(scales)).float().numpy()
    config = {"quantization_config": {"quant_method": "mxfp4"}}
    made = decode(config, {"a_blocks": ("U8", blocks), "a_scales": ("U8", scales)})[1]["a.weight"]
    np.testing.assert_array_equal(made.to_numpy().swapaxes(1, 2), own)


PACKED = [
    *(("pack-quantized", {"num_bits": bits, "type": "int", "symmetric": symmetric, **groups})
      for bits in (2, 3, 4, 5, 8) for symmetric in (True, False)
      for groups in ({"strategy": "group", "group_size": 32}, {"strategy": "channel"})),
    ("pack-quantized", {"num_bits": 4, "type": "int", "strategy": "tensor"}),
    ("int-quantized", {"num_bits": 8, "type": "int", "strategy": "channel"}),
    ("naive-quantized", {"num_bits": 8, "type": "int", "strategy": "channel", "symmetric": False}),
    ("float-quantized", {"num_bits": 8, "type": "float", "strategy": "channel"}),
    ("float-quantized", {"num_bits": 8, "type": "float", "strategy": "tensor"}),
    ("float-quantized", {"num_bits": 8, "type": "float", "strategy": "block", "block_structure": [128, 128]}),
    ("nvfp4-pack-quantized", {"num_bits": 4, "type": "float", "strategy": "tensor_group", "group_size": 16,
                              "scale_dtype": "torch.float8_e4m3fn"}),
    ("mxfp4-pack-quantized", {"num_bits": 4, "type": "float", "strategy": "group", "group_size": 32,
                              "scale_dtype": "torch.uint8"}),
    ("mxfp8-quantized", {"num_bits": 8, "type": "float", "strategy": "group", "group_size": 32,
                         "scale_dtype": "torch.uint8"}),
]  # fmt: skip


def quantised(kind: str, args: dict[str, Any], shape: tuple[int, int]) -> Any:
    """A layer that the library compresses, of random scales and zeros, as its tensors and as what it makes of them."""
    library = pytest.importorskip("compressed_tensors")
    torch = pytest.importorskip("torch")
    scheme = library.quantization.QuantizationScheme(
        targets=["Linear"], weights=library.quantization.QuantizationArgs(**args)
    )
    compressor = library.compressors.BaseCompressor.get_value_from_registry(kind)
    rows, columns = shape
    size = {"group": (rows, columns // args.get("group_size", 1)), "channel": (rows, 1), "tensor": (1,),
            "tensor_group": (rows, columns // 16), "block": (-(-rows // 128), -(-columns // 128))}  # fmt: skip
    scale = 0.01 + 0.01 * torch.rand(size[args["strategy"]])
    state = {"weight": 0.05 * torch.randn(shape)}
    if args.get("scale_dtype") == "torch.uint8":
        state["weight_scale"] = 2.0 ** torch.randint(-8, -4, scale.shape)
    elif args["strategy"] == "tensor_group":
        state["weight_global_scale"] = torch.tensor([37.5])
        state["weight_scale"] = (37.5 * scale).to(torch.float8_e4m3fn).float()
    else:
        state["weight_scale"] = scale.bfloat16()
        state["weight"] = state["weight"].bfloat16()
    if not args.get("symmetric", True):
        low = 1 << (args["num_bits"] - 1)
        state["weight_zero_point"] = torch.randint(-low, low, scale.shape, dtype=torch.int8)
    packed = compressor.compress(state, scheme)
    return packed, compressor.decompress(dict(packed), scheme)["weight"].float().numpy()


def named(module: str, parts: Any) -> storing.Tensors:
    """Tensors of torch as those of a checkpoint."""
    torch = pytest.importorskip("torch")
    names = {torch.int32: "I32", torch.int64: "I64", torch.int8: "I8", torch.uint8: "U8", torch.float32: "F32",
             torch.bfloat16: "BF16", torch.float8_e4m3fn: "F8_E4M3"}  # fmt: skip
    bits = {torch.bfloat16: torch.uint16, torch.float8_e4m3fn: torch.uint8}
    return {f"{module}.{name}": (names[value.dtype], value.view(bits.get(value.dtype, value.dtype)).numpy())
            for name, value in parts.items()}  # fmt: skip


@pytest.mark.parametrize(("kind", "args"), PACKED)
@pytest.mark.parametrize("shape", [(16, 128), (130, 96)])
def test_compressed_tensors(kind: str, args: dict[str, Any], shape: tuple[int, int]) -> None:
    packed, own = quantised(kind, args, shape)
    tensors = named("a", packed)
    said = {"quant_method": "compressed-tensors", "format": kind, "config_groups": {"a": {"weights": args}}}
    made = decode({"quantization_config": said}, tensors)[1]["a.weight"].to_numpy()
    assert made.shape == own.shape
    assert np.all(np.abs(made - own) <= HALF_STEP * np.abs(made))
    np.testing.assert_array_equal(of_bf16(bf16(made)), of_bf16(bf16(own)))


@pytest.mark.parametrize(("kind", "args"), [one for one in PACKED if one[1]["strategy"] != "block"])
def test_compressed_stacks_of_experts(kind: str, args: dict[str, Any]) -> None:
    torch = pytest.importorskip("torch")
    each = [quantised(kind, args, (32, 96)) for _ in range(3)]
    at = "model.layers.0.mlp.experts.gate_up_proj"
    tensors = named(at, {name: torch.stack([packed[name] for packed, _ in each]) for name in each[0][0]})
    said = {"quant_method": "compressed-tensors", "format": kind, "config_groups": {"a": {"weights": args}}}
    made = decode({"quantization_config": said}, tensors)[1][f"{at}.weight"].to_numpy()
    np.testing.assert_array_equal(of_bf16(bf16(made)), of_bf16(bf16(np.stack([own for _, own in each]))))


@pytest.mark.parametrize("group", [32, 64, 128])
@pytest.mark.parametrize("bits", [1, 2, 3, 4, 5, 6, 8])
def test_mlx_affine(bits: int, group: int) -> None:
    mx = pytest.importorskip("mlx.core")
    x = mx.array((0.05 * RNG.standard_normal((8, 256))).astype(np.float32))
    w, s, b = mx.quantize(x, group_size=group, bits=bits)
    own = np.array(mx.dequantize(w, s, b, group_size=group, bits=bits))
    tensors = {"a.weight": ("U32", np.array(w)), "a.scales": ("F32", np.array(s)), "a.biases": ("F32", np.array(b))}
    made = decode({"quantization": {"bits": bits, "group_size": group}}, tensors)[1]["a.weight"].to_numpy()
    np.testing.assert_allclose(made, own, rtol=0, atol=2.0**-23 * np.abs(own).max())
    halves = [part.astype(mx.float16) for part in (s, b)]
    own = np.array(mx.dequantize(w, *halves, group_size=group, bits=bits).astype(mx.float32))
    tensors |= {"a.scales": ("F16", np.array(halves[0])), "a.biases": ("F16", np.array(halves[1]))}
    made = decode({"quantization": {"bits": bits, "group_size": group}}, tensors)[1]["a.weight"].to_numpy()
    np.testing.assert_allclose(made, own, rtol=0, atol=2.0**-10 * np.abs(own).max())


@pytest.mark.parametrize("mode", ["mxfp4", "mxfp8", "nvfp4"])
def test_mlx_small_floats(mode: str) -> None:
    mx = pytest.importorskip("mlx.core")
    x = mx.array((0.05 * RNG.standard_normal((8, 256))).astype(np.float32))
    w, s = mx.quantize(x, mode=mode)
    own = np.array(mx.dequantize(w, s, mode=mode, dtype=mx.float32))
    said = {"bits": 8 if mode == "mxfp8" else 4, "group_size": 16 if mode == "nvfp4" else 32, "mode": mode}
    tensors = {"a.weight": ("U32", np.array(w)), "a.scales": ("U8", np.array(s))}
    np.testing.assert_array_equal(decode({"quantization": said}, tensors)[1]["a.weight"].to_numpy(), own)


@pytest.mark.parametrize(("mode", "bits", "group"), [("affine", 4, 64), ("affine", 6, 32), ("mxfp4", 4, 32)])
def test_mlx_stacks_of_experts(mode: str, bits: int, group: int) -> None:
    mx = pytest.importorskip("mlx.core")
    x = mx.array((0.05 * RNG.standard_normal((3, 8, 128))).astype(np.float32))
    w, *side = mx.quantize(x, group_size=group, bits=bits, mode=mode)
    own = np.array(mx.dequantize(w, *side, group_size=group, bits=bits, mode=mode, dtype=mx.float32))
    at = "model.layers.0.mlp.experts"
    kinds = {"affine": "F32", "mxfp4": "U8"}
    tensors = {f"{at}.up_proj.weight": ("U32", np.array(w))}
    tensors |= {f"{at}.up_proj.{name}": (kinds[mode], np.array(value))
                for name, value in zip(("scales", "biases"), side, strict=False)}  # fmt: skip
    made = decode({"quantization": {"bits": bits, "group_size": group, "mode": mode}}, tensors)[1]
    assert set(made) == {f"{at}.{i}.up_proj.weight" for i in range(3)}
    for i in range(3):
        numbers = made[f"{at}.{i}.up_proj.weight"].to_numpy()
        np.testing.assert_allclose(numbers, own[i], rtol=0, atol=2.0**-23 * np.abs(own).max())


@pytest.mark.parametrize("stacked", [True, False])
def test_mlx_nvfp4_with_the_largest_number(stacked: bool) -> None:
    mx = pytest.importorskip("mlx.core")
    x = mx.array(RNG.standard_normal((3, 8, 64)).astype(np.float32) * np.float32([[[0.1]], [[1]], [[7]]]))
    largest = mx.max(mx.abs(x), axis=(1, 2))
    each = [mx.quantize(x[i], mode="nvfp4", global_scale=largest[i]) for i in range(3)]
    own = [np.array(mx.dequantize(w, s, mode="nvfp4", global_scale=largest[i], dtype=mx.float32))
           for i, (w, s) in enumerate(each)]  # fmt: skip
    at, config = "layers.0.mlp.switch_mlp.up_proj", {"quantization": {"bits": 4, "group_size": 16, "mode": "nvfp4"}}
    w, s = (np.stack([np.array(one[j]) for one in each]) for j in range(2))
    if stacked:
        parts = {"weight": ("U32", w), "scales": ("U8", s), "global_scale": ("F32", np.array(largest))}
        made = list(decode(config, {f"{at}.{name}": value for name, value in parts.items()})[1].values())
    else:
        made = []
        for i in range(3):
            parts = {"weight": ("U32", w[i]), "scales": ("U8", s[i]), "global_scale": ("F32", np.array(largest[i]))}
            made.append(decode(config, {f"a.{name}": value for name, value in parts.items()})[1]["a.weight"])
    for rows, wanted in zip(made, own, strict=True):
        np.testing.assert_array_equal(rows.to_numpy(), wanted)
