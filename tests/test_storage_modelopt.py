"""ModelOpt's NVFP4 and FP8."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import storing
from storing import E2M1, E4M3, decode, pairs, refused, same

from ggufpy import format as gguf
from ggufpy.convert import ConvertOptions, convert
from ggufpy.format.rows import decoded

SAID = {"quant_method": "modelopt", "quant_algo": "NVFP4", "kv_cache_scheme": {"type": "float", "num_bits": 8}}
CONFIG = {"quantization_config": SAID}
RNG = np.random.default_rng(0)


def layer(shape: tuple[int, int], factor: float, low: int = 0x20, high: int = 0x7E) -> Any:
    """Tensors of a layer and its numbers; scales are bytes from `low` to `high`."""
    q, s = RNG.integers(0, 16, shape), RNG.integers(low, high + 1, (shape[0], shape[1] // 16)).astype(np.uint8)
    factor = np.float32(factor)
    tensors = {"a.weight": ("U8", pairs(q)), "a.weight_scale": ("F8_E4M3", s), "a.weight_scale_2": ("F32", factor),
               "a.input_scale": ("F32", np.float32(3)), "a.k_proj.k_scale": ("F32", np.float32(1))}  # fmt: skip
    return tensors, E2M1[q] * (E4M3[s] * factor).repeat(16, 1)


@pytest.mark.parametrize(("factor", "low"), [(1.0, 0), (0.25, 0x20), (2.0, 0x00)])
def test_factors_that_fold(factor: float, low: int) -> None:
    tensors, wanted = layer((6, 128), factor, low, 0x70)
    name, made = decode(CONFIG, tensors)
    assert name == "ModelOpt"
    assert set(made) == {"a.weight"}
    same(made["a.weight"], wanted, "NVFP4")


def test_factors_that_do_not_fold() -> None:
    tensors, wanted = layer((6, 512), 0.0123)
    assert same(decode(CONFIG, tensors)[1]["a.weight"], wanted, "Q6_K", exact=False) < 0.006
    tensors, wanted = layer((6, 512), 0.0123, 0x58, 0x70)  # within a factor of 8: nothing but the factor is rounded
    made = decode(CONFIG, tensors)[1]["a.weight"]
    assert same(made, wanted, "Q6_K", exact=False) < 2.0**-11
    whole = decoded(made.near.rows(0, 6), "Q6_K")  # type: ignore[union-attr]
    nonzero = wanted != 0
    assert np.ptp(whole[nonzero] / wanted[nonzero]) < 1e-3
    tensors, wanted = layer((6, 96), 0.0123)
    assert same(decode(CONFIG, tensors)[1]["a.weight"], wanted, "Q8_0", exact=False) < 0.005
    tensors, wanted = layer((6, 48), 0.0123)
    same(decode(CONFIG, tensors)[1]["a.weight"], wanted, None, exact=False)
    tensors, wanted = layer((2, 64), 0.25, 0x00, 0x08)  # would be less than the least scale
    tensors["a.weight_scale"][1][0, 0] = 1
    assert decode(CONFIG, tensors)[1]["a.weight"].exact is None


def test_scales_of_zero() -> None:
    tensors, wanted = layer((2, 256), 0.0123)
    tensors["a.weight_scale"][1][:] = 0
    made = decode(CONFIG, tensors)[1]["a.weight"]
    np.testing.assert_array_equal(decoded(made.near.rows(0, 2), "Q6_K"), wanted * 0)  # type: ignore[union-attr]


def test_mixed_layers() -> None:
    tensors, wanted = layer((4, 64), 1.0)
    w = RNG.integers(0, 0x7F, (6, 64)).astype(np.uint8)
    s = RNG.random(6).astype(np.float32)
    e = RNG.integers(120, 130, (6, 2)).astype(np.uint8)
    tensors |= {"b.weight": ("F8_E4M3", w), "b.weight_scale": ("F32", s), "c.weight": ("F8_E4M3", w),
                "c.weight_scale": ("F32", s[0]), "d.weight": ("F8_E4M3", w), "d.weight_scale": ("U8", e)}  # fmt: skip
    config = {"quantization_config": {"quant_method": "modelopt", "quant_algo": "MIXED_PRECISION", "quantized_layers": {
        "a": {"quant_algo": "NVFP4"}, "b": {"quant_algo": "FP8"}}}}  # fmt: skip
    made = decode(config, tensors)[1]
    same(made["a.weight"], wanted, "NVFP4")
    same(made["b.weight"], E4M3[w] * s[:, None], "Q8_0", exact=False)
    same(made["c.weight"], E4M3[w] * s[0], "Q8_0", exact=False)
    same(made["d.weight"], E4M3[w] * np.ldexp(np.float32(1), e.astype(int) - 127).repeat(32, 1), "BF16")


def encode(name: str, values: Any, factor: float | None = None) -> Any:
    """Groups of 16 with scales that put the largest on 6."""
    factor = np.float32(factor or np.abs(values).max() / (6 * 448))
    groups = values.reshape(len(values), -1, 16)
    known = np.where(np.isnan(E4M3), np.inf, E4M3)[:128]
    s = np.abs(np.abs(groups).max(2)[..., None] / 6 / factor - known).argmin(-1).astype(np.uint8)
    scale = E4M3[s] * factor
    q = np.abs(np.divide(groups, scale[..., None])[..., None] - E2M1).argmin(-1).reshape(values.shape)
    tensors = {name: ("U8", pairs(q)), f"{name}_scale": ("F8_E4M3", s), f"{name}_scale_2": ("F32", factor)}
    return tensors, E2M1[q] * scale.repeat(16, 1)


@pytest.mark.slow
def test_end_to_end(tmp_path: Path) -> None:
    storing.end_to_end(tmp_path / "near", encode, CONFIG, "Q6_K", 0.005)
    storing.end_to_end(tmp_path / "exact", lambda name, values: encode(name, values, 1.0), CONFIG, "NVFP4")


@pytest.mark.slow
def test_settings_in_a_file_of_their_own(tmp_path: Path) -> None:
    tensors, meant = storing.llama(lambda name, values: encode(name, values, 1.0), {})
    path = storing.folder(tmp_path / "hf", tensors, storing.CONFIG)
    said = {"producer": {"name": "modelopt"}, "quantization": {"quant_algo": "NVFP4", "group_size": 16}}
    (path / "hf_quant_config.json").write_text(json.dumps(said))
    convert(path, tmp_path / "m.gguf", ConvertOptions(no_vocab=True))
    storing.compare(tmp_path / "m.gguf", meant, "NVFP4", 0.0)
    with gguf.open(tmp_path / "m.gguf") as file:
        assert file.tensors["token_embd.weight"].type == "BF16"


def test_what_is_refused() -> None:
    tensors, _ = layer((4, 64), 1.0)
    for missing in ("a.weight", "a.weight_scale"):
        refused(CONFIG, {k: v for k, v in tensors.items() if k != missing}, f"'{missing}' is missing")
    for factor in (0, -1, np.inf, np.nan):
        refused(CONFIG, {**tensors, "a.weight_scale_2": ("F32", np.float32(factor))}, "which is no scale")
    refused(CONFIG, {**tensors, "a.weight_scale_2": ("F32", np.ones(2, np.float32))}, "must be one number")
    refused(CONFIG, {**tensors, "a.weight_scale": ("F8_E4M3", np.zeros((4, 3), np.uint8))}, "must be [4, 4]")
    refused(CONFIG, {**tensors, "a.weight": ("U8", np.zeros((4, 4), np.uint8))}, "not groups of 16")
    refused(CONFIG, {**tensors, "a.weight": ("I8", np.zeros((4, 32), np.int8))}, "as U8")
    refused(CONFIG, {**tensors, "a.pre_quant_scale": ("F32", np.ones(64, np.float32))}, "scales a layer's input")
    for bad in ({"quant_algo": "INT4_AWQ"}, {"quant_algo": ["NVFP4"]}, {"quantized_layers": 3},
                {"quantized_layers": {"a": {"quant_algo": "X"}}}):  # fmt: skip
        refused({"quantization_config": {"quant_method": "modelopt", **bad}}, tensors, "config.json")
