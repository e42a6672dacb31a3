"""SIMD primitives, each against NumPy at every level that this machine has."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from types import ModuleType
from typing import Any

import llvmlite.binding as llvm
import numpy as np
import pytest
from engine import LEVELS, Room

from ggufpy.simd import isa
from ggufpy.simd.isa import Level

OPS = (
    "dot4", "dot4_signed", "load_f16", "store_f16", "load_bf16", "round_i", "exp", "sum", "sum_i", "largest", "less",
    "half_bits", "store_i8", "fma", "to_f", "iota", "bits", "float_ops", "shifts", "min_max_abs", "store_bf16",
    "bf16_pairs", "dot_bf16", "compare", "compare_i", "choose", "min_max_i", "any", "half_i", "half_f", "trunc_i",
    "sqrt_f", "transpose_f32", "transpose_f16", "transpose_bf16", "gather_f", "gather_i",
    "rows", "evens_first", "byte_table",
)  # fmt: skip

TABLE = bytes([200, 0, 255, 7, 128, 127, 3, 90, 91, 92, 1, 2, 250, 33, 64, 16])


def build(v: Any, p: Mapping[str, Any]) -> Any:
    """One kernel for all: `what` chooses the primitive, applied to `count` vectors of a, b, c; results go to out."""
    dot4, dot4_signed, load_f16, store_f16, load_bf16, round_i, exp, sum_, sum_i, largest, less, half_bits = range(12)
    store_i8, fma, to_f, iota, bits, float_ops, shifts, min_max_abs = range(12, 20)
    store_bf16, bf16_pairs, dot_bf16 = range(20, 23)
    L, encoding = v.L, _encoding(v)

    @v.njit
    def missing(acc, x, y):
        return acc

    dot_pairs = v.dot_bf16 if v.BF16_DOT else missing

    def primitives(args: Any, ith: Any, nth: Any) -> None:
        what = args.what
        for i in range(args.count):
            at = 4 * L * i
            a, b, c, out = args.a + at, args.b + at, args.c + at, args.out + at
            if what == dot4:
                v.store_i(out, v.dot4(v.load_i(c), v.load_i(a), v.load_i(b)))
            elif what == dot4_signed:
                v.store_i(out, v.dot4_signed(v.load_i(c), v.load_i(a), v.load_i(b)))
            elif what == load_f16:
                v.store_f(out, v.load_f16(args.a + at // 2))
            elif what == store_f16:
                v.store_f16(args.out + at // 2, v.load_f(a))
            elif what == load_bf16:
                v.store_f(out, v.load_bf16(args.a + at // 2))
            elif what == round_i:
                v.store_i(out, v.round_i(v.load_f(a)))
            elif what == exp:
                v.store_f(out, v.exp(v.load_f(a)))
            elif what == sum_:
                v.store_f32(args.out + 4 * i, v.sum(v.load_f(a)))
            elif what == sum_i:
                v.store_i32(args.out + 4 * i, v.sum_i(v.load_i(a)))
            elif what == largest:
                v.store_f32(args.out + 4 * i, v.largest(v.load_f(a)))
            elif what == less:
                v.store_f(out, v.less(v.load_i(a), v.load_i(b), v.load_f(c), v.splat_f(-1.0)))
            elif what == half_bits:
                v.store_i64(args.out + 8 * i, v.half_bits(v.load_f32(args.a + 4 * i)))
            elif what == store_i8:
                v.store_i8(args.out + at // 4, v.load_i(a))
            elif what == fma:
                v.store_f(out, v.fma(v.load_f(a), v.load_f(b), v.load_f(c)))
            elif what == to_f:
                v.store_f(out, v.to_f(v.load_i(a)))
            elif what == iota:
                v.store_i(out, v.iota() + v.splat_i(i))
            elif what == bits:
                x, y = v.load_i(a), v.load_i(b)
                v.store_i(out, ((x & y) | (x ^ y)) * x - y)
            elif what == float_ops:
                x, y = v.load_f(a), v.load_f(b)
                v.store_f(out, (x + y) * x - y / x)
            elif what == shifts:
                x = v.load_i(a)
                v.store_i(out, (x << 5) + (x >> 3))
            elif what == min_max_abs:
                x, y = v.load_f(a), v.load_f(b)
                v.store_f(out, v.max(v.abs(x), y) + v.min(x, y))
            elif what == store_bf16:
                v.store_bf16(args.out + at // 2, v.load_f(a))
            elif what == bf16_pairs:
                v.store_i(out, v.bf16_pairs(v.load_f(a), v.load_f(b)))
            elif what == dot_bf16:
                v.store_f(out, dot_pairs(v.load_f(c), v.load_i(a), v.load_i(b)))
            else:
                encoding(what, args, i, at)

    return primitives


def _encoding(v: Any) -> Any:
    """What encoders use, as above. Comparisons leave bits: 1 greater, 2 greater or equal, 4 equal."""
    compare, compare_i, choose, min_max_i, any_, half_i, half_f, trunc_i, sqrt_f = range(23, 32)
    transpose_f32, transpose_f16, transpose_bf16, gather_f, gather_i = range(32, 37)
    rows, evens_first, byte_table = range(37, 40)
    L, look = v.L, v.byte_table(TABLE)

    @v.njit
    def bits(above, not_below, equal):
        return (above & v.splat_i(1)) | (not_below & v.splat_i(2)) | (equal & v.splat_i(4))

    @v.njit
    def encoding(what, args, i, at):
        a, b, c, out = args.a + at, args.b + at, args.c + at, args.out + at
        if what == compare:
            x, y = v.load_f(a), v.load_f(b)
            v.store_i(out, bits(v.gt(x, y), v.ge(x, y), v.eq(x, y)))
        elif what == compare_i:
            m, n = v.load_i(a), v.load_i(b)
            v.store_i(out, bits(v.gt_i(m, n), v.ge_i(m, n), v.eq_i(m, n)))
        elif what == choose:
            mask = v.gt_i(v.load_i(c), v.splat_i(0))
            chosen = v.choose_i(mask, v.load_i(a), v.load_i(b))
            v.store_i(out, chosen ^ v.as_i(v.choose(mask, v.load_f(b), v.load_f(a))))
        elif what == min_max_i:
            m, n = v.load_i(a), v.load_i(b)
            v.store_i(out, v.min_i(m, n) ^ (v.max_i(m, n) << 1))
        elif what == any_:
            v.store_i64(args.out + 8 * i, v.any(v.load_i(a)))
        elif what == half_i:
            v.store_i(out, v.half_i(v.load_f(a)))
        elif what == half_f:
            v.store_f(out, v.half_f(v.load_i(a)))
        elif what == trunc_i:
            v.store_i(out, v.trunc_i(v.load_f(a)))
        elif what == sqrt_f:
            v.store_f(out, v.sqrt_f(v.load_f(a)))
        elif what == gather_f:
            v.store_f(out, v.gather_f(args.b, v.load_i(a)))
        elif what == gather_i:
            v.store_i(out, v.gather_i(args.b, v.load_i(a)))
        elif what == evens_first:
            v.store_i(out, v.evens_first(v.load_i(a)))
        elif what == byte_table:
            v.store_i(out, look(v.load_i(a)))
        elif what == rows:  # bytes i to i + 15 of rows of count + 15 bytes
            words = v.ints(5)
            v.rows(args.a + i, args.count + 15, words, 1)
            for n in range(4):
                v.store_i(args.out + 16 * L * i + 4 * L * n, words[n + 1])
        elif i % L == 0:  # a square of L vectors: columns i of the L rows, which lie `count` elements apart
            if what == transpose_f32:
                v.transpose_f32(args.a + 4 * i, 4 * args.count, out)
            elif what == transpose_f16:
                v.transpose_f16(args.a + 2 * i, 2 * args.count, out)
            elif what == transpose_bf16:
                v.transpose_bf16(args.a + 2 * i, 2 * args.count, out)

    return encoding


def _compile(level: Level) -> tuple[Any, Any]:
    """The test kernel at a level, and the engine that holds its code. It goes to no cache on disk."""
    from ggufpy.jit.cache import function
    from ggufpy.jit.compile import object_code
    from ggufpy.jit.spec import kernel, struct

    module: Any = ModuleType("ggufpy.backends.cpu.kernels.primitives_under_test")
    module.ARGS, module.build = struct("what", "count", "a", "b", "c", "out"), build
    sys.modules[module.__name__] = module
    try:
        of = kernel("primitives_under_test")
        code = object_code(of, level)
    finally:
        del sys.modules[module.__name__]
    machine = llvm.Target.from_default_triple().create_target_machine()
    engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), machine)
    engine.add_object_file(llvm.object_file.ObjectFileRef.from_data(code))
    engine.finalize_object()
    return function(engine.get_function_address(of.symbol)), (engine, module.ARGS)


class Primitives:
    """Calls primitives of one level on whole arrays."""

    def __init__(self, level: Level) -> None:
        self.level = level
        self._call, (self._engine, self._args) = _compile(level)

    def __call__(self, what: str, out: Any, a: Any, b: Any = None, c: Any = None, count: int | None = None) -> Any:
        given = {"a": a, "b": b, "c": c, "out": out}
        rooms = {name: Room(np.zeros(1) if x is None else x) for name, x in given.items()}
        args = np.zeros((), self._args)
        args["what"], args["count"] = OPS.index(what), len(a) // self.level.lanes if count is None else count
        for name, room in rooms.items():
            args[name] = room.address
        self._call(args.ctypes.data, 0, 1)
        rooms["out"].check()
        return rooms["out"].array


@pytest.fixture(scope="module", params=LEVELS, ids=lambda level: level.name)
def v(request: pytest.FixtureRequest) -> Primitives:
    return Primitives(request.param)


def _bytes_dot(unsigned: Any, signed: Any) -> Any:
    return (unsigned.astype(np.int64) * signed).reshape(-1, 4).sum(axis=1).astype(np.int32)


def _pairs(unsigned: Any, signed: Any) -> tuple[Any, Any]:
    """Every unsigned with every signed byte, in each place of a lane beside the extremes of the others."""
    u, s = (grid.reshape(-1) for grid in np.meshgrid(unsigned, signed))
    all_u, all_s = np.repeat(u, 4).astype(np.uint8), np.repeat(s, 4).astype(np.int8)
    rng = np.random.default_rng(0)
    mixed_u, mixed_s = rng.choice(unsigned, u.size * 4).astype(np.uint8), rng.choice(signed, u.size * 4).astype(np.int8)
    end_u, end_s = (rng.choice(ends[[0, -1]], 4096) for ends in (unsigned, signed))
    found_u, found_s = np.concatenate([all_u, mixed_u, end_u]), np.concatenate([all_s, mixed_s, end_s])
    return found_u.astype(np.uint8), found_s.astype(np.int8)


def test_dot4_is_exact(v: Primitives) -> None:
    # Only these levels promise all 256 unsigned values; codes of panels below 8 bits need no more than 63.
    whole = v.level.lowering in ("amx", "avx512", "portable")
    u, s = _pairs(np.arange(256 if whole else 128), np.arange(-128, 128))
    start = np.random.default_rng(1).integers(-(2**20), 2**20, u.size // 4).astype(np.int32)
    found = v("dot4", np.zeros_like(start), u.view(np.int32), s.view(np.int32), start)
    np.testing.assert_array_equal(found, start + _bytes_dot(u, s))


def test_dot4_signed_is_exact_for_all_weights_and_activations(v: Primitives) -> None:
    from ggufpy.simd.primitives import primitives

    u, s = _pairs(np.arange(256), np.arange(-127, 128))
    start = np.random.default_rng(2).integers(-(2**20), 2**20, u.size // 4).astype(np.int32)
    found = v("dot4_signed", np.zeros_like(start), u.view(np.int32), s.view(np.int32), start)
    exact = start + _bytes_dot(u.astype(np.int64) - 128, s)
    bias = primitives(v.level).S8_BIAS * s.astype(np.int64).reshape(-1, 4).sum(axis=1)
    np.testing.assert_array_equal(found + bias, exact)


def test_every_half_is_loaded(v: Primitives) -> None:
    bits = np.arange(1 << 16, dtype=np.uint16)
    found = v("load_f16", np.zeros(1 << 16, np.float32), bits, count=(1 << 16) // v.level.lanes)
    exact = bits.view(np.float16).astype(np.float32)
    number = ~np.isnan(exact)
    np.testing.assert_array_equal(found[number].view(np.int32), exact[number].view(np.int32))
    assert np.isnan(found[~number]).all()


def _floats_around_halves() -> Any:
    """Every finite half, what lies just beside it and between it and the next, and random bits."""
    halves = np.arange(0x7C00, dtype=np.uint16).view(np.float16).astype(np.float32)
    between = (halves[1:] + halves[:-1]) / 2  # exact in float32: a tie
    near = [np.nextafter(x, np.float32(side)) for x in (halves, between) for side in (-1, 1e30)]
    random = np.random.default_rng(3).integers(0, 0x7F800000, 1 << 15).astype(np.int32).view(np.float32)
    beyond = np.array([65504, 65519.99, 65520, 65536, 1e30, 3.4e38, np.inf, 1e-45, 2**-25, 2**-24], np.float32)
    positive = np.concatenate([halves, between, *near, random, beyond])
    values = np.concatenate([positive, -positive])
    return np.concatenate([values, np.zeros(-values.size % 64, np.float32)])


def test_store_f16_rounds_to_nearest_even_and_saturates(v: Primitives) -> None:
    x = _floats_around_halves()
    found = v("store_f16", np.zeros(x.size, np.uint16), x)
    exact = np.clip(x, -65504, 65504).astype(np.float16).view(np.uint16)
    np.testing.assert_array_equal(found, exact)


def test_half_bits_is_store_f16_of_one_number(v: Primitives) -> None:
    x = _floats_around_halves()[::7]
    found = v("half_bits", np.zeros(x.size, np.int64), x, count=x.size)
    np.testing.assert_array_equal(found, np.clip(x, -65504, 65504).astype(np.float16).view(np.uint16))


def test_not_a_number_becomes_a_finite_half_or_stays_one(v: Primitives) -> None:
    x = np.full(v.level.lanes, np.nan, np.float32)
    found = v("store_f16", np.zeros(x.size, np.uint16), x).view(np.float16)
    assert np.isnan(found).all() or (np.abs(found) == 65504).all()


def test_load_bf16(v: Primitives) -> None:
    bits = np.arange(1 << 16, dtype=np.uint16)
    found = v("load_bf16", np.zeros(1 << 16, np.int32), bits, count=(1 << 16) // v.level.lanes)
    np.testing.assert_array_equal(found, (bits.astype(np.uint32) << 16).view(np.int32))


def _floats_around_bf16() -> Any:
    """Finite floats: every bf16, what lies just beside it and between it and the next, and random bits."""
    whole = np.arange(0x0080, 0x7F7F, dtype=np.uint32) << 16  # no subnormals: hardware makes them zeros
    bits = np.concatenate([whole + x for x in (0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF)])
    bits = np.concatenate([bits, np.random.default_rng(9).integers(0x00800000, 0x7F7F0000, 1 << 12)]).astype(np.uint32)
    values = np.concatenate([bits, bits | np.uint32(1 << 31)]).view(np.float32)
    return np.concatenate([values, [np.inf, -np.inf, 0.0, -0.0], np.zeros(-(values.size + 4) % 64)]).astype(np.float32)


def _bf16_bits(x: Any) -> Any:
    bits = x.view(np.uint32).astype(np.uint64)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint32)


def test_bf16_is_rounded_to_nearest_even(v: Primitives) -> None:
    x = _floats_around_bf16()
    exact = _bf16_bits(x)
    np.testing.assert_array_equal(v("store_bf16", np.zeros(x.size, np.uint16), x), exact)
    found = v("bf16_pairs", np.zeros(x.size, np.uint32), x, x[::-1])
    np.testing.assert_array_equal(found, exact | exact[::-1] << 16)


def test_not_a_number_stays_one_as_bf16(v: Primitives) -> None:
    bits = np.resize(np.array([0x7F800001, 0x7FFFFFFF, 0xFFFFFFFF, 0xFFC00000], np.uint32), 16)
    found = v("bf16_pairs", np.zeros(16, np.uint32), bits.view(np.float32), bits.view(np.float32))
    for half in (found << 16, found & 0xFFFF0000):
        assert np.isnan(half.astype(np.uint32).view(np.float32)).all()


def test_dot_products_of_bf16_pairs(v: Primitives) -> None:
    if not isa.has_bf16_dot(v.level):
        pytest.skip("the level has none")
    rng = np.random.default_rng(10)
    pairs = rng.integers(-127, 128, (2, 480, 2)).astype(np.float32)
    packed = (_bf16_bits(pairs[:, :, 0].copy()) | _bf16_bits(pairs[:, :, 1].copy()) << 16).astype(np.uint32)
    start = rng.integers(-1000, 1000, 480).astype(np.float32)
    found = v("dot_bf16", np.zeros(480, np.float32), packed[0], packed[1], start)
    np.testing.assert_array_equal(found, start + (pairs[0] * pairs[1]).sum(axis=1))


def test_round_i_is_to_nearest_even(v: Primitives) -> None:
    whole = np.arange(-300, 300, dtype=np.float32)
    edge = np.array([-(2**22) + 1, 2**22 - 1, 4194302.5, -4194302.5, 0.49999997, -0.49999997, -0.0, 1e-45], np.float32)
    x = np.concatenate([whole, whole + np.float32(0.5), whole + np.float32(0.49), edge])
    x = np.concatenate([x, np.zeros(-x.size % 16, np.float32)])
    found = v("round_i", np.zeros(x.size, np.int32), x)
    np.testing.assert_array_equal(found, np.rint(x).astype(np.int32))


def test_exp_is_accurate(v: Primitives) -> None:
    x = np.concatenate([np.linspace(-87, 88, 1 << 16), [0.0, -0.0, 1e-30, -1e-30] * 4]).astype(np.float32)
    found = v("exp", np.zeros(x.size, np.float32), x)
    exact = np.exp(x.astype(np.float64))
    assert np.abs(found / exact - 1).max() < 1e-6
    assert (found[x == 0] == 1.0).all()


def test_exp_stays_finite_beyond_its_range(v: Primitives) -> None:
    x = np.resize(np.array([-1e30, -1e3, -88, 89, 1e3, 1e30, -np.inf, np.inf], np.float32), 16)
    found = v("exp", np.zeros(x.size, np.float32), x)
    assert np.isfinite(found).all()
    assert (found[x < 0] < 2e-38).all()
    assert (found[x > 0] > 1e38).all()


def test_sums_and_largest(v: Primitives) -> None:
    rng, lanes = np.random.default_rng(4), v.level.lanes
    x = rng.standard_normal((500, lanes)).astype(np.float32)
    out = np.zeros(500, np.float32)
    np.testing.assert_allclose(v("sum", out, x, count=500), x.astype(np.float64).sum(axis=1), atol=1e-5)
    np.testing.assert_array_equal(v("largest", out, x, count=500), x.max(axis=1))
    np.testing.assert_array_equal(v("largest", out, -np.abs(x), count=500), -np.abs(x).min(axis=1))
    n = rng.integers(-(2**31), 2**31, (500, lanes)).astype(np.int32)
    exact = n.sum(axis=1, dtype=np.int64).astype(np.int32)  # wraps around
    np.testing.assert_array_equal(v("sum_i", out.view(np.int32), n, count=500), exact)


def test_a_sum_adds_the_upper_half_to_the_lower_again_and_again(v: Primitives) -> None:
    x = np.random.default_rng(5).standard_normal((200, v.level.lanes)).astype(np.float32)
    exact = x
    while exact.shape[1] > 1:
        middle = exact.shape[1] // 2
        exact = exact[:, :middle] + exact[:, middle:]
    np.testing.assert_array_equal(v("sum", np.zeros(200, np.float32), x, count=200), exact[:, 0])


def test_less_compares_signed(v: Primitives) -> None:
    rng = np.random.default_rng(6)
    a, b = rng.integers(-5, 5, (2, 480)).astype(np.int32)
    a[:16], b[:16] = -(2**31), 2**31 - 1
    c = rng.standard_normal(480).astype(np.float32)
    found = v("less", np.zeros(480, np.float32), a, b, c)
    np.testing.assert_array_equal(found, np.where(a < b, c, np.float32(-1)))


def test_integer_lanes(v: Primitives) -> None:
    rng = np.random.default_rng(7)
    a, b = rng.integers(-(2**31), 2**31, (2, 480)).astype(np.int32)
    out = np.zeros(480, np.int32)
    np.testing.assert_array_equal(v("bits", out, a, b), ((a & b) | (a ^ b)) * a - b)
    np.testing.assert_array_equal(v("shifts", out, a), (a << 5) + (a.view(np.uint32) >> 3).astype(np.int32))
    np.testing.assert_array_equal(v("to_f", out.view(np.float32), a), a.astype(np.float32))
    np.testing.assert_array_equal(v("store_i8", np.zeros(480, np.int8), a), a.astype(np.int8))
    lanes = v.level.lanes
    exact = (np.arange(lanes)[None, :] + np.arange(480 // lanes)[:, None]).reshape(-1)
    np.testing.assert_array_equal(v("iota", out, a), exact)


def test_float_lanes(v: Primitives) -> None:
    rng = np.random.default_rng(8)
    a, b, c = rng.standard_normal((3, 480)).astype(np.float32)
    out = np.zeros(480, np.float32)
    np.testing.assert_array_equal(v("float_ops", out, a, b), (a + b) * a - b / a)
    np.testing.assert_array_equal(v("min_max_abs", out, a, b), np.maximum(np.abs(a), b) + np.minimum(a, b))
    found = v("fma", out, a, b, c)
    once = (a.astype(np.float64) * b + c).astype(np.float32)  # the product is exact in float64
    np.testing.assert_array_equal(found, once if v.level.lowering != "portable" else a * b + c)


# -- what encoders use -------------------------------------------------------------------------------------


def _compared(a: Any, b: Any) -> Any:
    return (a > b) * 1 + (a >= b) * 2 + (a == b) * 4


def test_comparisons(v: Primitives) -> None:
    rng = np.random.default_rng(11)
    a, b = rng.integers(-3, 4, (2, 480)).astype(np.int32)
    a[:8], b[:8] = -(2**31), 2**31 - 1
    out = np.zeros(480, np.int32)
    np.testing.assert_array_equal(v("compare_i", out, a, b), _compared(a, b))
    x, y = a.astype(np.float32), b.astype(np.float32)
    x[10:14], y[10:14] = [0.0, np.nan, 1.0, np.nan], [-0.0, 1.0, np.nan, np.nan]  # nothing compares with a NaN
    x[14:16], y[14:16] = [np.inf, -np.inf], np.inf
    np.testing.assert_array_equal(v("compare", out, x, y), _compared(x, y))


def test_choices(v: Primitives) -> None:
    rng = np.random.default_rng(12)
    a, b, c = rng.integers(-(2**31), 2**31, (3, 480)).astype(np.int32)
    out = np.zeros(480, np.int32)
    np.testing.assert_array_equal(v("choose", out, a, b, c), a ^ b)  # each the one that the other is not
    np.testing.assert_array_equal(v("choose", out, a, np.zeros_like(a), c), a)
    np.testing.assert_array_equal(v("min_max_i", out, a, b), np.minimum(a, b) ^ (np.maximum(a, b) << 1))


def test_any_is_of_all_lanes(v: Primitives) -> None:
    lanes = v.level.lanes
    one = np.concatenate([np.zeros((1, lanes), np.int32), -np.eye(lanes, dtype=np.int32)])
    found = v("any", np.zeros(lanes + 1, np.int64), one, count=lanes + 1)
    np.testing.assert_array_equal(found != 0, np.arange(lanes + 1) > 0)


def test_halves_become_infinite_as_ieee_says(v: Primitives) -> None:
    x = _floats_around_halves()
    with np.errstate(over="ignore"):
        exact = x.astype(np.float16).view(np.uint16)
    np.testing.assert_array_equal(v("half_i", np.zeros(x.size, np.int32), x), exact)


def test_every_half_is_a_float(v: Primitives) -> None:
    bits = np.arange(1 << 16, dtype=np.int32)
    exact = bits.astype(np.uint16).view(np.float16).astype(np.float32)
    number = ~np.isnan(exact)
    found = v("half_f", np.zeros(bits.size, np.float32), bits)
    np.testing.assert_array_equal(found[number].view(np.int32), exact[number].view(np.int32))
    assert np.isnan(found[~number]).all()


def test_trunc_i_is_towards_zero(v: Primitives) -> None:
    x = np.concatenate([np.linspace(-300, 300, 1 << 12), [0.99999994, -0.99999994, -0.0, 2**31 - 128, -(2.0**31)] * 16])
    x = x.astype(np.float32)
    np.testing.assert_array_equal(v("trunc_i", np.zeros(x.size, np.int32), x), np.trunc(x).astype(np.int32))


def test_sqrt_f_is_rounded_correctly(v: Primitives) -> None:
    x = np.random.default_rng(13).integers(0, 0x7F800000, 1 << 14).astype(np.int32).view(np.float32)
    np.testing.assert_array_equal(v("sqrt_f", np.zeros(x.size, np.float32), x), np.sqrt(x))


def test_rows_become_lanes(v: Primitives) -> None:
    lanes = v.level.lanes
    rows = np.random.default_rng(14).standard_normal((lanes, 3 * lanes)).astype(np.float16).astype(np.float32)
    rows = (rows.view(np.uint32) & 0xFFFF0000).view(np.float32)  # both an f16 and a bf16
    sources = {"f32": rows, "f16": rows.astype(np.float16), "bf16": (rows.view(np.uint32) >> 16).astype(np.uint16)}
    for name, source in sources.items():
        found = v(f"transpose_{name}", np.zeros((3 * lanes, lanes), np.float32), source, count=3 * lanes)
        np.testing.assert_array_equal(found, rows.T)


def test_pieces_of_rows_become_lanes(v: Primitives) -> None:
    lanes, count = v.level.lanes, 21
    source = np.random.default_rng(16).integers(0, 256, (lanes, count + 15), np.uint8)
    found = v("rows", np.zeros((count, 4, lanes), np.int32), source, count=count)
    for i in range(count):
        np.testing.assert_array_equal(found[i], source[:, i : i + 16].copy().view(np.int32).T)


def test_lower_halves_come_before_upper_ones(v: Primitives) -> None:
    lanes, x = v.level.lanes, np.arange(0, 30 * v.level.lanes, dtype=np.int16)
    halves = x.reshape(-1, lanes, 2)
    found = v("evens_first", np.zeros(x.size // 2, np.int32), x.view(np.int32))
    np.testing.assert_array_equal(found.view(np.int16), np.concatenate(halves.transpose(0, 2, 1), axis=None))


def test_bytes_are_looked_up(v: Primitives) -> None:
    index = np.random.default_rng(17).integers(0, 16, 64 * v.level.lanes).astype(np.uint8)
    found = v("byte_table", np.zeros(index.size // 4, np.int32), index.view(np.int32))
    np.testing.assert_array_equal(found.view(np.uint8), np.frombuffer(TABLE, np.uint8)[index])


def test_gathers(v: Primitives) -> None:
    rng = np.random.default_rng(15)
    table, index = rng.integers(-(2**31), 2**31, 77).astype(np.int32), rng.integers(0, 77, 480).astype(np.int32)
    for name in ("gather_i", "gather_f"):
        found = v(name, np.zeros(480, np.int32), index, table)
        np.testing.assert_array_equal(found, table[index])
