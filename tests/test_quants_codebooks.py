"""Encoders of uneven levels and of three: against plain ones, ggml's bytes and PyPI's gguf, at every SIMD level."""

from __future__ import annotations

import math

import numpy as np
import pytest
from engine import some_fast

from ggufpy import quants
from ggufpy.errors import GGUFError
from ggufpy.simd import isa

IQ4 = ["IQ4_NL", "IQ4_XS"]
TERNARY = ["TQ1_0", "TQ2_0", "Q2_0"]
UNWEIGHTED = [*TERNARY, "MXFP4", "NVFP4", "Q1_0"]
NAMES = [*IQ4, *UNWEIGHTED]
QUICK = ["IQ4_NL", "TQ2_0", "MXFP4"]
IQ4_LEVELS = np.float32([-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113])
FP4_LEVELS = np.float32([0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12])
F = np.float32


# What the encoders should do, one block at a time: x (weights,), w (weights,) or None → bytes.


def total(terms):
    """Added one after the other in float32."""
    return np.add.accumulate(terms, dtype=F)[-1]


def half_bytes(x):
    return F(x).astype("<f2").reshape(1).view(np.uint8)


def inverse(x):
    """0 where there is none in float32."""
    return F(1) / x if abs(x) > 2.0**-128 else F(0)


def nibbles(codes):
    low, high = codes.reshape(2, -1)
    return (low | high << 4).astype(np.uint8)


def iq4_codes(x):
    distance = np.abs(IQ4_LEVELS.astype(float) - x.astype(float)[:, None])
    return 15 - distance[:, ::-1].argmin(axis=1)


def iq4_scale(x, w):
    top = x[np.abs(x).argmax()]
    if abs(top) < F(1e-15):
        return F(0)
    scale, best = F(0), F(0)
    for i, factor in enumerate([F(1) / (top / F(127)), *(F(step - 127) / top for step in range(-7, 8))]):
        level = IQ4_LEVELS[iq4_codes(x * factor)]
        dot, norm = total(w * level * x), total(w * level * level)
        if norm > 0 and (i == 0 or dot * dot > best * norm):
            scale, best = dot / norm, dot / norm * dot
    return scale


def iq4_weights(x, w):
    if w is None:
        return x * x
    return w * np.sqrt(total(x * x) * F(2 / x.size) + x * x)


def iq4_nl(x, w):
    scale = iq4_scale(x, iq4_weights(x, w))
    return np.concatenate([half_bytes(scale), nibbles(iq4_codes(x * inverse(scale)))])


def iq4_xs(x, w):
    groups = x.reshape(8, 32)
    scales = [iq4_scale(*pair) for pair in zip(groups, iq4_weights(x, w).reshape(8, 32), strict=True)]
    d = -scales[np.abs(scales).argmax()] / F(32)
    ls = [max(-32, min(31, round(float(inverse(d) * scale)))) for scale in scales]
    high = sum((level + 32 >> 4) << 2 * g for g, level in enumerate(ls))
    low = sum((level + 32 & 15) << 4 * g for g, level in enumerate(ls))
    head = [half_bytes(d), np.uint8([high & 255, high >> 8]), np.uint32([low]).view(np.uint8)]
    runs = [nibbles(iq4_codes(group * inverse(d * F(level)))) for group, level in zip(groups, ls, strict=True)]
    return np.concatenate([*head, *runs])


def trits(x):
    scale = np.abs(x).max()
    share = (x * inverse(scale)).astype(float)
    return scale, np.trunc(share + np.copysign(0.5, share)).astype(int) + 1


def tq1_0(x, w):
    scale, codes = trits(x)
    runs = [codes[:160].reshape(5, 32), codes[160:240].reshape(5, 16), codes[240:].reshape(4, 4)]
    numbers = [sum(digit * 3 ** (4 - i) for i, digit in enumerate(run)) for run in runs]
    packed = [math.ceil(int(number) * 256 / 243) for number in np.concatenate(numbers)]
    return np.concatenate([np.uint8(packed), half_bytes(scale)])


def tq2_0(x, w):
    scale, codes = trits(x)
    packed = (codes.reshape(2, 4, 32) << np.array([0, 2, 4, 6])[:, None]).sum(axis=1)
    return np.concatenate([packed.astype(np.uint8).reshape(-1), half_bytes(scale)])


def q2_0(x, w):
    scale, codes = trits(x)
    packed = (codes.reshape(16, 4) << np.array([0, 2, 4, 6])).sum(axis=1)
    return np.concatenate([half_bytes(scale), packed.astype(np.uint8)])


def q1_0(x, w):
    return np.concatenate([half_bytes(total(np.abs(x)) / F(128)), np.packbits(x >= 0, bitorder="little")])


def fp4_codes(x, scale):
    return np.abs(FP4_LEVELS.astype(float) * scale - x[:, None]).argmin(axis=1)


def mxfp4(x, w):
    top = np.abs(x).max()
    e = max(0, min(252, math.floor(F(math.log2(top))) + 125)) if top > 0 else 0
    return np.concatenate([np.uint8([e]), nibbles(fp4_codes(x, F(2.0 ** (e - 128))))])


def e4m3(x):
    """The byte and its value."""
    x = min(float(x), 448.0)
    power = max(math.frexp(x)[1] - 1, -6) if x else -6
    if power >= 8:
        return 0x7E, 448.0
    eighths = math.floor(x / 2.0 ** (power - 3) + 0.5)
    if x < 2.0**-6:
        eighths = min(int(F(x * 512) + F(0.5)), 7)  # added in float32, which may round up
    code = (power + 6) * 8 + eighths
    return (code, eighths * 2.0 ** (power - 3)) if code < 0x78 else (0x7E, 448.0)


def nvfp4(x, w):
    groups = x.reshape(4, 16)
    scales = [e4m3(np.abs(group).max() / F(6)) for group in groups]
    runs = [nibbles(fp4_codes(group, F(value / 2))) for group, (_, value) in zip(groups, scales, strict=True)]
    return np.concatenate([np.uint8([code for code, _ in scales]), *runs])


def plain(x, name, importance=None):
    """(rows, n) → (rows, bytes a row)."""
    size = quants.get(name).weights
    encode = globals()[name.lower()]
    rows = []
    for row in x:
        blocks = row.reshape(-1, size)
        weights = [None] * len(blocks) if importance is None else importance.astype(F).reshape(-1, size)
        rows.append(np.concatenate([encode(*pair) for pair in zip(blocks, weights, strict=True)]))
    return np.stack(rows)


def samples(rows, columns, seed=0):
    """Rows of many sizes and shapes of distribution; zeros among them."""
    draw = np.random.default_rng(seed)
    x = draw.standard_normal((rows, columns))
    x[1::5] **= 3
    x *= 10.0 ** draw.uniform(-6, 2, (rows, 1))
    x[2::5] = np.round(x[2::5] / np.abs(x[2::5]).max(axis=1, keepdims=True) * 4) / 4  # ties
    x[3::5, : columns // 2] = 0
    x[4::5, ::3] *= -0.0
    return x.astype(F)


@pytest.mark.parametrize("name", some_fast(NAMES, QUICK))
def test_bytes_of_ggml(shared, name):
    with np.load(shared / "reference" / "quant_vectors.npz") as vectors:
        x, importance = vectors["x"], vectors["imatrix"]
        assert np.array_equal(quants.quantize(x, name), vectors[name])
        assert np.array_equal(quants.quantize(x, name, importance), vectors[name + "__imatrix"])


@pytest.mark.parametrize("name", some_fast(NAMES, QUICK))
@pytest.mark.parametrize(("rows", "blocks"), [(1, 1), (3, 2), (21, 1)])
def test_bytes_of_the_plain_encoder(name, rows, blocks):
    x = samples(rows, blocks * quants.get(name).weights, seed=rows)
    assert np.array_equal(quants.quantize(x, name), plain(x, name))


@pytest.mark.parametrize("name", some_fast(IQ4, QUICK[:1]))
def test_importance_as_in_the_plain_encoder(name):
    x = samples(18, 512, seed=4)
    importance = np.random.default_rng(5).random(512) ** 4
    importance[32:64] = 0
    importance[256:] *= 1e-3
    assert np.array_equal(quants.quantize(x, name, importance), plain(x, name, importance))


def extremes(width):
    """Rows of one block of `width` that any type takes: nothing, least and large values, one weight, equal weights."""
    x = np.zeros((12, width), F)
    x[1], x[2], x[3] = -0.0, 3.0, -3.0
    x[4, 5], x[5], x[6] = 1e-30, 1e-40, -1e-14
    x[7, 1], x[7, 2] = 4.0, -4.0
    x[8], x[9] = np.linspace(-60000, 60000, width), np.linspace(1, 2, width)
    x[10, -1], x[11, 0] = -7.5, np.finfo(F).tiny
    return x


@pytest.mark.parametrize("name", some_fast(NAMES, QUICK))
def test_extremes(name):
    x = extremes(quants.get(name).weights)
    encoded = quants.quantize(x, name)
    assert np.array_equal(encoded, plain(x, name))
    decoded = quants.dequantize(encoded, name)
    assert np.isfinite(decoded).all()
    assert not decoded[:2].any() or name == "Q1_0"
    if name == "NVFP4":  # its scales reach 2688
        assert np.abs(decoded[8]).max() == 2688


@pytest.mark.parametrize("level", isa.available(), ids=lambda level: level.name)
@pytest.mark.parametrize("name", some_fast(NAMES, QUICK))
def test_same_bytes_at_every_level(name, level, monkeypatch):
    size = quants.get(name).weights
    x = np.concatenate([samples(37, size, seed=6), extremes(size)])
    importance = np.random.default_rng(7).random(size) if name == "IQ4_NL" else None
    expected = quants.quantize(x, name), quants.quantize(x, name, importance)
    monkeypatch.setenv("GGUFPY_ISA", level.name)
    assert np.array_equal(quants.quantize(x, name), expected[0])
    if importance is not None:
        assert np.array_equal(quants.quantize(x, name, importance), expected[1])


@pytest.mark.parametrize("name", some_fast(UNWEIGHTED, QUICK[1:]))
def test_types_that_ignore_importance(name):
    x = samples(5, 512, seed=8)
    importance = np.random.default_rng(9).random((5, 512))
    assert np.array_equal(quants.quantize(x, name, importance), quants.quantize(x, name))


@pytest.mark.parametrize("name", some_fast(IQ4, QUICK[:1]))
def test_importance_lowers_the_weighted_error(name):
    x = np.random.default_rng(10).standard_normal((16, 256)).astype(F)
    importance = np.random.default_rng(11).random(256) ** 4

    def error(blocks):
        return (importance * (quants.dequantize(blocks, name) - x) ** 2).mean()

    assert error(quants.quantize(x, name, importance)) < error(quants.quantize(x, name))


@pytest.mark.parametrize("name", some_fast(IQ4, QUICK[:1]))
def test_a_group_of_no_importance_is_zero(name):
    """As ggml has it since llama.cpp#20460; in IQ4_XS the other groups of the block keep their scales."""
    x = np.random.default_rng(12).standard_normal((4, 512)).astype(F)
    importance = np.ones(512)
    importance[32:64] = importance[256:] = 0
    decoded = quants.dequantize(quants.quantize(x, name, importance), name)
    nothing = importance == 0
    assert not decoded[:, nothing].any()
    assert np.abs(decoded - x)[:, ~nothing].max() < np.abs(x).max() / 6
    assert not quants.dequantize(quants.quantize(x, name, 0.0), name).any()


@pytest.mark.parametrize("name", some_fast([*IQ4, *TERNARY, "Q1_0"], QUICK[:2]))
@pytest.mark.parametrize("size", [1e9, 1e13, 1e17, 3e38])
def test_weights_too_large_for_the_scale_are_refused(name, size):
    x = np.ones((2, 256), F)
    x[1] = size
    with pytest.raises(GGUFError, match="too large for the 16-bit scale"):
        quants.quantize(x, name)


def test_mxfp4_scales():
    powers = np.arange(-126, 128)
    tops = F(2.0**powers)
    below = tops.copy()
    x = np.zeros((70, len(powers), 32), F)
    for i in range(70):  # the last floats below each power of two, then the power
        x[69 - i, :, 3] = below
        below = np.nextafter(below, F(0))
    x[:, :, 4] = -x[:, :, 3] / 7
    x = x.reshape(-1, 32)
    assert np.array_equal(quants.quantize(x, "MXFP4"), plain(x, "MXFP4"))
    largest = np.full((1, 32), np.finfo(F).max)
    assert np.isfinite(quants.dequantize(quants.quantize(largest, "MXFP4"), "MXFP4")).all()


def test_nvfp4_scales():
    sixteenths = F(np.arange(1, 33) / 16)[:, None] * F(2.0 ** np.arange(-15, 12))
    tops = F(6) * np.concatenate([np.nextafter(sixteenths, F(0)), sixteenths, np.nextafter(sixteenths, F(1e9))])
    x = np.zeros((tops.size, 4, 16), F)
    x[:, 1, 7], x[:, 2, 0], x[:, 3, 15] = tops.reshape(-1), -tops.reshape(-1), tops.reshape(-1) / 3
    x = x.reshape(-1, 64)
    assert np.array_equal(quants.quantize(x, "NVFP4"), plain(x, "NVFP4"))


@pytest.mark.parametrize("name", some_fast(TERNARY, QUICK[1:2]))
def test_every_combination_of_three_survives(name):
    digits = np.arange(3**5) // 3 ** np.arange(5)[:, None] % 3 - 1  # (5, 243)
    x = np.zeros((243, 256), F)
    for first, count in ((0, 32), (160, 16), (240, 4)):
        places = min(5, (256 - first) // count)
        for i in range(places):
            x[:, first + count * i : first + count * (i + 1)] = digits[i][:, None]
    x[:, 255] = 1
    assert np.array_equal(quants.dequantize(quants.quantize(x, name), name), x)


@pytest.mark.parametrize("name", some_fast(["TQ1_0", "TQ2_0", "MXFP4"], QUICK[1:]))
def test_bytes_of_gguf(name):
    gguf = pytest.importorskip("gguf", reason="the oracle, PyPI's gguf, is not installed")
    x = samples(40, 512, seed=13)
    x[0], x[1] = 0, np.linspace(-1, 1, 512)
    assert np.array_equal(quants.quantize(x, name), gguf.quantize(x, gguf.GGMLQuantizationType[name]))


def test_shapes_and_sources():
    x = samples(6, 256, seed=14).reshape(2, 3, 256)
    for name in NAMES:
        rows = quants.quantize(x.reshape(6, 256), name)
        assert np.array_equal(quants.quantize(x, name).reshape(rows.shape), rows)
        short = x.astype(np.float16)
        assert np.array_equal(quants.quantize(short, name), quants.quantize(short.astype(F), name))
