"""Encoding against ggml's bytes and PyPI's gguf, and what `quantize` refuses."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from ggufpy import quants
from ggufpy.errors import GGUFError
from ggufpy.quants import base, search

gguf = pytest.importorskip("gguf", reason="the oracle, PyPI's gguf, is not installed")
BLOCKS = ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"]
FLOATS = ["F32", "F16", "BF16"]
SAMPLES = [0.0, -0.0, 1.0, -2.5, 65504.0, 65520.0, 1e9, -1e9, 1e-8, 6e-8, 1e-40, 3.4e38, np.inf, -np.inf]


def weights(shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("name", BLOCKS)
def test_bytes_of_ggml(shared, name):
    with np.load(shared / "reference" / "quant_vectors.npz") as vectors:
        x, importance = vectors["x"], vectors["imatrix"]
        assert np.array_equal(quants.quantize(x, name), vectors[name])
        assert np.array_equal(quants.quantize(x, name, importance), vectors[name + "__imatrix"])


@pytest.mark.parametrize("name", BLOCKS)
def test_bytes_of_gguf(name):
    x = weights((9, 1024), seed=2)
    x[0, :64] = 0
    x[1, :32] = 0.25
    assert np.array_equal(quants.quantize(x, name), gguf.quantize(x, gguf.GGMLQuantizationType[name]))


@pytest.mark.parametrize("name", FLOATS)
def test_floats_of_gguf(name):
    x = np.concatenate([weights(1000), np.float32(SAMPLES)])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ours = quants.quantize(x, name)
    with np.errstate(over="ignore"):
        theirs = gguf.quantize(x, gguf.GGMLQuantizationType[name])
    assert np.array_equal(ours, theirs.view(np.uint8))


def test_bf16_ties_and_nan():
    bits = np.array([0x3F808000, 0x3F818000, 0x3F808001, 0x7F800001, 0xFFFFFFFF, 0x7F7FFFFF], np.uint32)
    rounded = quants.quantize(bits.view(np.float32), "BF16").view("<u2")
    assert rounded.tolist() == [0x3F80, 0x3F82, 0x3F81, 0x7FC0, 0xFFFF, 0x7F80]


def test_f64_keeps_every_bit():
    x = np.array([np.pi, 1e300, -0.0])
    assert np.array_equal(quants.quantize(x, "F64").view("<f8"), x)


@pytest.mark.parametrize("name", BLOCKS)
@pytest.mark.parametrize("weighted", [False, True])
def test_a_block_does_not_depend_on_its_neighbours(name, weighted):
    x = np.tile(weights((40, 32), seed=4), (1, 2))  # equal halves: the mean square of the row is the block's
    importance = np.linspace(0.1, 2, 32, dtype=np.float32) if weighted else None
    twice = None if importance is None else np.tile(importance, 2)
    together = quants.quantize(x, name, twice)
    for row, expected in zip(x, together, strict=True):
        alone = quants.quantize(row[:32], name, importance)
        again = quants.quantize(row, name, twice)
        assert np.array_equal(again, expected)
        assert alone.shape == (expected.size // 2,)
    if not weighted:
        assert np.array_equal(quants.quantize(x[0, :32], name), together[0, : together.shape[1] // 2])


def test_sums_run_in_file_order_whatever_the_shape():
    terms = weights((32, 5), seed=6) * np.float32(1e3)
    expected = np.zeros(5, np.float32)
    for row in terms:
        expected += row
    for columns in (1, 2, 3, 5):
        part = np.ascontiguousarray(terms[:, :columns])
        assert np.array_equal(search.total(part), expected[:columns])


@pytest.mark.parametrize("name", BLOCKS)
@pytest.mark.parametrize("shape", [(32,), (1, 64), (3, 5, 32), (2, 1, 2, 96)])
def test_shapes(name, shape):
    x = weights(shape, seed=7)
    flat = x.reshape(-1, shape[-1])
    rows = quants.quantize(flat, name)
    assert np.array_equal(quants.quantize(x, name).reshape(rows.shape), rows)
    assert quants.dequantize(quants.quantize(x, name), name).shape == shape
    per_row = np.random.default_rng(8).random(shape)
    weighted = quants.quantize(x, name, per_row)
    alone = [quants.quantize(r, name, i) for r, i in zip(flat, per_row.reshape(flat.shape), strict=True)]
    assert np.array_equal(weighted.reshape(rows.shape), np.stack(alone))


def test_importance_broadcasts():
    x = weights((3, 4, 64), seed=9)
    by_expert = np.random.default_rng(10).random((3, 1, 64))
    expected = np.stack([quants.quantize(part, "Q4_0", i) for part, i in zip(x, by_expert, strict=True)])
    assert np.array_equal(quants.quantize(x, "Q4_0", by_expert), expected)
    assert np.array_equal(quants.quantize(x, "Q4_0", 1), quants.quantize(x, "Q4_0", np.ones(64)))


@pytest.mark.parametrize("name", ["Q4_0", "Q4_1", "Q5_0", "Q5_1"])
def test_importance_lowers_the_weighted_error(name):
    x = weights((16, 256), seed=11)
    importance = np.random.default_rng(12).random(256) ** 4

    def error(blocks):
        return (importance * (quants.dequantize(blocks, name) - x) ** 2).mean()

    assert error(quants.quantize(x, name, importance)) < error(quants.quantize(x, name))


@pytest.mark.parametrize("name", BLOCKS)
@pytest.mark.parametrize("importance", [None, 0.0, 1.0])
def test_extreme_blocks(name, importance):
    x = np.zeros((9, 32), np.float32)
    x[1], x[2], x[3] = -0.0, 3.0, -3.0
    x[4, 5], x[5] = 1e-30, 1e-40
    x[6, 1], x[6, 2] = 4.0, -4.0
    x[7] = np.linspace(-60000, 60000, 32)
    x[8] = np.linspace(1, 2, 32)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        decoded = quants.dequantize(quants.quantize(x, name, importance), name)
    assert np.isfinite(decoded).all()
    if importance != 0.0:  # with no importance at all, any scale is as good
        half_step = (
            np.ptp(x, axis=1, keepdims=True) / (1 << int(name[1])) + np.abs(x).max(axis=1, keepdims=True) / 8
        )
        assert (np.abs(decoded - x) <= half_step + 1e-6).all()


def test_other_arrays():
    x = weights((2, 64), seed=13).astype(np.float16)
    expected = quants.quantize(x.astype(np.float32), "Q8_0")
    for same in (x, x.astype(np.float64), x.tolist(), np.asfortranarray(x), x.astype(">f4")):
        assert np.array_equal(quants.quantize(same, "Q8_0"), expected)
    assert np.array_equal(quants.quantize(np.arange(32), "Q8_0"), quants.quantize(np.arange(32.0), "Q8_0"))
    assert quants.quantize(np.zeros((0, 32), np.float32), "Q4_0").shape == (0, 18)
    assert quants.quantize(np.zeros((3, 0), np.float32), "Q4_0").shape == (3, 0)


def test_many_rows_are_taken_in_pieces():
    rows = base.CHUNK // 32 + 5
    x = np.repeat(weights((1, 32), seed=14), rows, axis=0)
    out = quants.quantize(x, "Q5_1", np.ones(32))
    assert (out == out[0]).all()


@pytest.mark.parametrize(
    ("x", "name", "importance", "message"),
    [
        (np.zeros(33), "Q4_0", None, "rows of Q4_0 must be whole blocks of 32"),
        (np.float32(1), "Q4_0", None, "rows of Q4_0"),
        (np.zeros(32, complex), "Q4_0", None, "x must be an array of real numbers, got dtype complex128"),
        (np.array(["a"] * 32), "Q4_0", None, "x must be an array of real numbers"),
        (np.array([None] * 32), "F32", None, "x must be an array of real numbers, got dtype object"),
        (np.full((2, 32), 1e39), "Q4_0", None, r"x\[0, 0\] is 1e\+39: it is not a finite float32"),
        (np.full((2, 32), 3e38, np.float32), "Q4_0", None, "too large for the 16-bit scale of Q4_0"),
        (np.full((2, 32), 1e6, np.float32), "Q5_1", None, "too large for the 16-bit minimum of Q5_1"),
        (
            np.zeros((2, 32)),
            "Q4_0",
            np.ones(31),
            r"importance of shape \(31,\) does not fit x of shape \(2, 32\)",
        ),
        (np.zeros((2, 32)), "Q4_0", np.ones((2, 2, 32)), "does not fit"),
        (np.zeros((2, 32)), "Q4_0", -np.ones(32), r"importance\[0\] is -1.0: it is not between 0 and 1e20"),
        (np.zeros((2, 32)), "Q4_0", np.full(32, np.nan), r"importance\[0\] is nan"),
        (np.zeros((2, 32)), "Q4_0", np.full(32, 1e30), r"importance\[0\] is 1e\+30"),
        (np.full((2, 32), 1e30), "Q4_0", np.ones(32), "too large for the 16-bit scale of Q4_0"),
        (np.full((2, 32), 1e30), "Q5_1", np.ones(32), "too large for the 16-bit"),
        (np.zeros((2, 32)), "Q4_0", "much", "importance must be an array of real numbers"),
        (np.zeros(256), "IQ1_M", None, "IQ1_M cannot be written yet; types that can: F32, F16, Q4_0"),
        (np.zeros(4), "I8", None, "I8 cannot be written yet"),
        (np.zeros(32), "Q4", None, "did you mean Q4_"),
    ],
)
def test_refused(x, name, importance, message):
    with np.errstate(all="raise"), pytest.raises(GGUFError, match=message) as error:
        quants.quantize(x, name, importance)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", BLOCKS)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_non_finite_weights_are_named(name, value):
    x = weights((3, 2, 64), seed=15)
    x[2, 1, 17] = value
    with pytest.raises(GGUFError, match=rf"x\[2, 1, 17\] is {value}"):
        quants.quantize(x, name)


def test_types_that_cannot_be_written_say_so():
    for name in quants.names():
        block = quants.get(name)
        if not block.encodes:
            with pytest.raises(GGUFError, match="cannot be written yet"):
                block.encode(np.zeros((1, block.weights), np.float32), None)
