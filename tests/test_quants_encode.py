"""Encoding against ggml's bytes and PyPI's gguf, and what `quantize` refuses."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from engine import BEST, LEVELS, OTHERS, compile_ahead, some_fast
from quant_reference import ENCODERS, encode

from ggufpy import quants
from ggufpy.errors import GGUFError
from ggufpy.jit.spec import kernel
from ggufpy.quants import base
from ggufpy.quants.encoding import PART, Encoder, NotFinite

gguf = pytest.importorskip("gguf", reason="the oracle, PyPI's gguf, is not installed")
SIMPLE = ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"]
FAST = ["Q4_0", "Q4_1", "Q8_0", "Q2_K", "Q4_K", "Q6_K"]  # the others are made of the same parts
BLOCKS = some_fast(list(ENCODERS), FAST)
# What is encoded at every level: between them, all that encoders share.
EVERYWHERE = [("Q8_0", False), ("Q2_K", True), ("Q3_K", True)]
FLOATS = ["F32", "F16", "BF16"]
SAMPLES = [0.0, -0.0, 1.0, -2.5, 65504.0, 65520.0, 1e9, -1e9, 1e-8, 6e-8, 1e-40, 3.4e38, np.inf, -np.inf]


def _encoder(name, weighted):
    return kernel("encode_lanes", type=name.lower(), weighted=int(weighted))


@pytest.fixture(scope="module", autouse=True)
def _compiled():
    weighed = [name for name in FAST if quants.get(name).uses_importance]
    here = [(_encoder(name, False), BEST) for name in FAST] + [(_encoder(name, True), BEST) for name in weighed]
    compile_ahead(here + [(_encoder(*which), level) for which in EVERYWHERE for level in OTHERS])


def weights(shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("name", BLOCKS)
def test_bytes_of_ggml(shared, name):
    with np.load(shared / "reference" / "quant_vectors.npz") as vectors:
        x, importance = vectors["x"], vectors["imatrix"]
        assert np.array_equal(quants.quantize(x, name), vectors[name])
        assert np.array_equal(quants.quantize(x, name, importance), vectors[name + "__imatrix"])


@pytest.mark.parametrize("name", some_fast(SIMPLE, SIMPLE[:2]))
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


def hard_rows(columns, seed=0):
    """(24, columns) rows of many magnitudes, with what searches must not divide by."""
    rng = np.random.default_rng(seed)
    x = weights((24, columns), seed) * np.exp(3 * rng.standard_normal((24, 1))).astype(np.float32)
    x[0], x[1, : columns // 2], x[2], x[3], x[4, ::3] = 0, 0, 2, -2, 0
    x[5], x[6] = np.abs(x[5]), -np.abs(x[6])
    x[7] *= np.float32(1e-9)
    x[8, :256] = np.float32(1e-20)
    x[9] = rng.integers(-3, 4, columns)
    x[10] *= np.float32(1e-6)
    x[11, 1:] *= np.float32(1e-4)
    x[12] = -0.0
    x[13] *= np.float32(1e-17)
    return x


def hard_importance(columns, seed=0):
    """(24, columns) with zeros: everywhere, in a block, and for every other weight."""
    importance = np.random.default_rng(seed).random((24, columns)).astype(np.float32) ** 4
    importance[14], importance[15, :256], importance[16, ::2] = 0, 0, 0
    importance[17] *= np.float32(1e15)
    importance[18] *= np.float32(1e-15)
    return importance


@pytest.mark.parametrize("name", BLOCKS)
@pytest.mark.parametrize("shared_by_rows", [None, True, False])
@pytest.mark.parametrize("seed", [0, 1])
def test_the_same_bytes_as_plain_numpy(name, shared_by_rows, seed):
    columns = quants.get(name).weights * (3 - seed)
    x, importance = hard_rows(columns, seed), hard_importance(columns, seed)
    if shared_by_rows is None:
        importance = None
    elif shared_by_rows:
        importance = importance[5:6]
    for rows in (24, 17, 3, 1):  # more and fewer than a vector has lanes
        weight = importance if importance is None or shared_by_rows else importance[:rows]
        np.testing.assert_array_equal(quants.quantize(x[:rows], name, weight), encode(name, x[:rows], weight))


@pytest.mark.parametrize("level", LEVELS, ids=lambda level: level.name)
@pytest.mark.parametrize(("name", "weighted"), EVERYWHERE)
def test_every_level_gives_the_same_bytes(name, weighted, level, monkeypatch):
    columns = 2 * quants.get(name).weights
    x, importance = hard_rows(columns, seed=2), hard_importance(columns, seed=2) if weighted else None
    monkeypatch.setenv("GGUFPY_ISA", level.name)
    np.testing.assert_array_equal(quants.quantize(x, name, importance), encode(name, x, importance))


@pytest.mark.parametrize("name", ["Q8_0", "Q4_K"])
def test_sixteen_bit_sources(name):
    x = weights((19, 512), seed=3)
    half = x.astype(np.float16)
    bf16 = quants.quantize(x, "BF16").view(np.uint16)
    single = quants.dequantize(bf16.view(np.uint8), "BF16")
    for source, same in ((half, half.astype(np.float32)), (bf16, single)):
        out = np.zeros((19, 512 // quants.get(name).weights * quants.get(name).nbytes), np.uint8)
        Encoder(quants.get(name), 1).encode(source, None, out)
        np.testing.assert_array_equal(out, encode(name, same))


@pytest.mark.parametrize("name", BLOCKS)
@pytest.mark.parametrize("weighted", [False, True])
def test_a_block_does_not_depend_on_its_neighbours(name, weighted):
    n = quants.get(name).weights
    x = np.tile(weights((20, n), seed=4), (1, 2))  # equal halves: the mean square of the row is the block's
    importance = np.linspace(0.1, 2, n, dtype=np.float32) if weighted else None
    twice = None if importance is None else np.tile(importance, 2)
    together = quants.quantize(x, name, twice)
    order = np.random.default_rng(5).permutation(20)
    np.testing.assert_array_equal(quants.quantize(x[order], name, twice), together[order])
    for row, expected in zip(x, together, strict=True):
        alone = quants.quantize(row[:n], name, importance)
        np.testing.assert_array_equal(quants.quantize(row, name, twice), expected)
        assert alone.shape == (expected.size // 2,)
        np.testing.assert_array_equal(alone, expected[: alone.size])


@pytest.mark.parametrize("name", BLOCKS)
@pytest.mark.parametrize("shape", [(1,), (1, 2), (3, 5, 1), (2, 1, 2, 3)])
def test_shapes(name, shape):
    shape = (*shape[:-1], shape[-1] * quants.get(name).weights)
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


@pytest.mark.parametrize("name", some_fast([n for n in ENCODERS if n != "Q8_0"], [n for n in FAST if n != "Q8_0"]))
def test_importance_lowers_the_weighted_error(name):
    x = weights((16, 256), seed=11)
    importance = np.random.default_rng(12).random(256) ** 4

    def error(blocks):
        return (importance * (quants.dequantize(blocks, name) - x) ** 2).mean()

    assert error(quants.quantize(x, name, importance)) < error(quants.quantize(x, name))


@pytest.mark.parametrize("name", some_fast(SIMPLE, SIMPLE[:2]))
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
        half_step = np.ptp(x, axis=1, keepdims=True) / (1 << int(name[1])) + np.abs(x).max(axis=1, keepdims=True) / 8
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
    rows = base.CACHED // 32 + 5
    x = np.repeat(weights((1, 32), seed=14), rows, axis=0)
    out = quants.quantize(x, "Q5_1", np.ones(32))
    assert (out == out[0]).all()


def test_threads_share_the_rows():
    x = weights((2 * PART // 2048 + 7, 2048), seed=14).astype(np.float16)
    block, out = quants.get("Q4_0"), np.zeros((3, len(x), 64 * 18), np.uint8)
    for threads, blocks in zip((1, 2, 3), out, strict=True):
        Encoder(block, threads).encode(x, None, blocks)
    assert (out == out[0]).all()
    np.testing.assert_array_equal(out[0, -9:], quants.quantize(x[-9:], "Q4_0"))


@pytest.mark.parametrize("source", [np.float32, np.float16, np.uint16])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_not_finite_is_found_or_zeroed(source, weighted, bad):
    x = weights((21, 512), seed=20)
    x[13, 300] = bad
    importance = np.ones((1, 512), np.float32) if weighted else None
    given = quants.quantize(x, "BF16").view(np.uint16) if source == np.uint16 else x.astype(source)
    block, out = quants.get("Q4_K"), np.zeros((21, 288), np.uint8)
    with pytest.raises(NotFinite, match="row 13 has a value that is not finite") as error:
        Encoder(block, 1).encode(given, importance, out)
    assert error.value.row == 13
    Encoder(block, 1).encode(given, importance, out, zero_bad=True)
    x[13, 300] = 0
    zeroed = quants.quantize(x, "BF16").view(np.uint16) if source == np.uint16 else x.astype(source)
    expected = np.zeros_like(out)
    Encoder(block, 1).encode(zeroed, importance, expected)
    np.testing.assert_array_equal(out, expected)


@pytest.mark.parametrize("name", BLOCKS)
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("size", [3e8, 3e9, 1e18, 3e38])
def test_what_no_scale_can_hold_is_refused(name, weighted, size):
    x = weights((2, 256), seed=21)
    x[1, 77] = size
    importance = np.ones((1, 256), np.float32) if weighted else None
    with pytest.raises(GGUFError, match=rf"x reaches \S+, too large for the 16-bit .* of {name}: scale the weights"):
        quants.quantize(x, name, importance)
    bits, out = quants.quantize(x, "BF16").view(np.uint16), np.zeros_like(quants.quantize(x * 0, name))
    with pytest.raises(GGUFError, match=f"too large for the 16-bit .* of {name}"):
        Encoder(quants.get(name), 1).encode(bits, importance, out, zero_bad=True)


@pytest.mark.parametrize(
    ("x", "importance", "out"),
    [
        (np.zeros((2, 256)), None, np.zeros((2, 144), np.uint8)),
        (np.zeros(256, np.float32), None, np.zeros((1, 144), np.uint8)),
        (np.zeros((2, 255), np.float32), None, np.zeros((2, 144), np.uint8)),
        (np.zeros((2, 512), np.float32)[:, ::2], None, np.zeros((2, 144), np.uint8)),
        (np.zeros((2, 256), np.dtype(np.float32).newbyteorder()), None, np.zeros((2, 144), np.uint8)),
        (np.zeros((2, 256), np.float32), None, np.zeros((2, 145), np.uint8)),
        (np.zeros((2, 256), np.float32), None, np.zeros((2, 144), np.int8)),
        (np.zeros((2, 256), np.float32), np.ones((1, 256)), np.zeros((2, 144), np.uint8)),
        (np.zeros((2, 256), np.float32), np.ones((3, 256), np.float32), np.zeros((2, 144), np.uint8)),
    ],
)
def test_arrays_that_do_not_match_never_reach_a_kernel(x, importance, out):
    with pytest.raises(ValueError, match=r"^(x|out|importance) is "):
        Encoder(quants.get("Q4_K"), 1).encode(x, importance, out)


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
        ([[1.0] * 32, [1.0]], "Q4_0", None, "x cannot be made an array: .*inhomogeneous"),
        (np.zeros(256), "Q8_K", None, "Q8_K cannot be written yet; types that can: F32, F16, Q4_0"),
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
    x = weights((3, 2, 256), seed=15)
    x[2, 1, 17] = value
    with pytest.raises(GGUFError, match=rf"x\[2, 1, 17\] is {value}"):
        quants.quantize(x, name)


def test_types_that_cannot_be_written_say_so():
    for name in quants.names():
        block = quants.get(name)
        if not block.encodes:
            with pytest.raises(GGUFError, match="cannot be written yet"):
                quants.quantize(np.zeros((1, block.weights), np.float32), name)
