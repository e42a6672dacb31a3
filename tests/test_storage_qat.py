"""Floats that were trained to be Q4_0."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import storing
from storing import bf16, decode, of_bf16

from ggufpy import quants
from ggufpy.convert import ConvertOptions, convert
from ggufpy.convert.keep import Kept
from ggufpy.convert.storage import qat
from ggufpy.errors import GGUFError
from ggufpy.format.rows import Rows, decoded

RNG = np.random.default_rng(0)


def trained(shape: tuple[int, ...], low: int = -8, high: int = 7, scale: float = 0.01) -> Any:
    """d · q in float32, for d of f16."""
    q = RNG.integers(low, high + 1, (*shape[:-1], shape[-1] // 32, 32))
    d = (scale * RNG.uniform(0.2, 1, q.shape[:-1]) * RNG.choice([-1, 1], q.shape[:-1])).astype(np.float16)
    return (q * d.astype(np.float32)[..., None]).astype(np.float32).reshape(shape)


def open_(values: Any, dtype: str = "BF16") -> Rows:
    raw = bf16(values) if dtype == "BF16" else values.astype(np.float16)
    return decode({}, {"a.weight": (dtype, raw)})[1]["a.weight"]


@pytest.mark.parametrize("dtype", ["BF16", "F16"])
@pytest.mark.parametrize(("low", "high"), [(-8, 7), (-7, 7), (-3, 2), (0, 1), (-8, -8)])
def test_what_was_trained_is_found(low: int, high: int, dtype: str) -> None:
    made = open_(trained((40, 256), low, high), dtype)
    blocks = made.exact
    assert blocks is not None
    assert (made.type, blocks.type, made.quantised) == (dtype, "Q4_0", True)
    whole = decoded(blocks.rows(0, 40), "Q4_0")
    again = of_bf16(bf16(whole)) if dtype == "BF16" else whole.astype(np.float16).astype(np.float32)
    np.testing.assert_array_equal(again, made.floats(0, 40))
    Kept(made, blocks).rows(3, 17)


def test_what_ggml_makes_of_floats_is_found() -> None:
    x = (RNG.standard_normal((64, 256)) * 0.02).astype(np.float32)
    x[3] = 0
    numbers = quants.dequantize(quants.quantize(x, "Q4_0"), "Q4_0").reshape(x.shape)
    made = open_(numbers)
    assert made.exact is not None
    np.testing.assert_array_equal(of_bf16(bf16(decoded(made.exact.rows(0, 64), "Q4_0"))), of_bf16(bf16(numbers)))


def test_what_was_not_is_left_alone() -> None:
    values = trained((64, 256))
    for changed in (RNG.standard_normal((64, 256)).astype(np.float32), np.zeros((64, 256), np.float32),
                    np.full((64, 256), np.inf, np.float32)):  # fmt: skip
        name, made = decode({}, {"a.weight": ("BF16", bf16(changed))})
        assert name == ""
        assert not made["a.weight"].quantised
    values[1, 40] *= 1.05  # in a row that is not looked at first
    made = open_(values)
    assert isinstance(made, qat.OnGrid)
    assert made.exact is None
    assert not made.quantised
    name, _ = decode({}, {"a.weight": ("F32", trained((64, 256)))})
    assert name == ""


def test_a_block_that_differs_ends_the_conversion() -> None:
    made = open_(trained((4, 64)))
    other = open_(trained((4, 64)))
    assert other.exact is not None
    with pytest.raises(GGUFError, match="not the same numbers in Q4_0"):
        Kept(made, other.exact).rows(0, 4)


def encode(name: str, values: Any) -> Any:
    numbers = bf16(trained(values.shape, scale=0.01))
    return {name: ("BF16", numbers)}, of_bf16(numbers)


@pytest.mark.slow
def test_end_to_end(tmp_path: Path) -> None:
    tensors, meant = storing.llama(encode, {})
    path = storing.folder(tmp_path / "hf", tensors, storing.CONFIG)
    report = convert(path, tmp_path / "m.gguf", ConvertOptions(no_vocab=True))
    storing.compare(tmp_path / "m.gguf", meant, "Q4_0", 2.0**-8)
    assert any("kept without loss" in note and "Q4_0" in note for note in report.notes)
    convert(path, tmp_path / "plain.gguf", ConvertOptions("BF16", no_vocab=True))
    storing.compare(tmp_path / "plain.gguf", meant, "BF16", 0.0)
