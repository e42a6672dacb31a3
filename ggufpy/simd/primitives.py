"""The primitives that kernels call, gathered for one SIMD level in a module object: `v.load_f(at)`, `v.fma(a, b, c)`.

A module, because Numba resolves a module's attributes while it compiles. Addresses are int64; loads and stores need no
alignment. Every primitive is one or a few instructions; sizes are the level's `lanes` unless the name says otherwise.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from types import ModuleType
from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.core.extending import intrinsic

from .emulated import emulated_tiles
from .frontend import helper, whole
from .isa import Level, has_bf16_dot, has_tiles
from .lowering import I8, I16, I32, I64, LOWERINGS, Amx, EmulatedAmx, Lowering, call, fill, vector
from .shuffles import evens_first, joined, transposed
from .vectors import Distances, Registers, Struct, Vec, splat

Codegen = Callable[[Any, list[Any]], Any]


def _intrinsic(result: Any, arguments: tuple[Any, ...], emit: Codegen) -> Any:
    """A Numba intrinsic of fixed types whose code is `emit(builder, args)`."""

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        value = emit(builder, list(args))
        return context.get_dummy_value() if result == types.void else value

    def typing(typingctx: Any, *given: Any) -> Any:
        return result(*arguments), codegen

    names = [f"a{i}" for i in range(len(arguments))]
    scope: dict[str, Any] = {"typing": typing}
    # Numba reads an intrinsic's arity from its signature.
    source = f"def primitive(typingctx{''.join(', ' + n for n in names)}):\n    return typing(typingctx)\n"
    exec(source, scope)
    return intrinsic(scope["primitive"])


def _pointer(b: Any, address: Any, kind: Any) -> Any:
    return b.inttoptr(address, kind.as_pointer())


def _load(b: Any, address: Any, kind: Any, align: int = 1) -> Any:
    instruction = b.load(_pointer(b, address, kind))
    instruction.align = align
    return instruction


def _store(b: Any, value: Any, address: Any, align: int = 1) -> None:
    b.store(value, _pointer(b, address, value.type)).align = align


def _tree(b: Any, value: Any, lanes: int, join: Callable[[Any, Any], Any]) -> Any:
    """Joins lanes pairwise, always in the same order, so that a sum has the same bits every time."""
    width = lanes
    while width > 1:
        width //= 2
        mask = [i + width if i < width else i for i in range(lanes)]
        undef = ir.Constant(value.type, ir.Undefined)
        value = join(value, b.shuffle_vector(value, undef, ir.Constant(vector(I32, lanes), mask)))
    return b.extract_element(value, ir.Constant(I32, 0))


def _loader(kind: Any) -> Codegen:
    return lambda b, a: _load(b, a[0], kind)


def _scalars(v: dict[str, Any]) -> None:
    kinds = {"f32": (types.float32, ir.FloatType()), "i32": (types.int32, I32), "i64": (types.int64, I64)}
    for name, (kind, low) in kinds.items():
        v[f"load_{name}"] = _intrinsic(kind, (types.int64,), _loader(low))
        v[f"store_{name}"] = _intrinsic(types.void, (types.int64, kind), lambda b, a: _store(b, a[1], a[0]))
    v["load_u8"] = _intrinsic(types.int64, (types.int64,), lambda b, a: b.zext(_load(b, a[0], I8), I64))
    v["store_u8"] = _intrinsic(types.void, (types.int64, types.int64), lambda b, a: _store(b, b.trunc(a[1], I8), a[0]))
    v["store_u16"] = _intrinsic(
        types.void, (types.int64, types.int64), lambda b, a: _store(b, b.trunc(a[1], I16), a[0])
    )
    v["swap_i64"] = _intrinsic(types.int64, (types.int64,), lambda b, a: call(b, "llvm.bswap.i64", I64, a))
    v["load_u16"] = _intrinsic(types.int64, (types.int64,), lambda b, a: b.zext(_load(b, a[0], I16), I64))
    v["distances"] = _intrinsic(Distances(), (types.int64,) * 4, _distances)
    v["sqrt"] = _intrinsic(types.float32, (types.float32,), lambda b, a: call(b, "llvm.sqrt.f32", ir.FloatType(), a))
    v["prefetch"] = _intrinsic(types.void, (types.int64,), lambda b, a: _prefetch(b, a[0], 2))
    v["prefetch_near"] = _intrinsic(types.void, (types.int64,), lambda b, a: _prefetch(b, a[0], 3))


def _distances(b: Any, a: list[Any]) -> Any:
    """Four numbers as `Distances`."""
    four = ir.Constant(Distances.ir, ir.Undefined)
    for i, number in enumerate(a):
        four = b.insert_element(four, number, I32(i))
    return four


def _prefetch(b: Any, address: Any, locality: int) -> None:
    """Brings a cache line for reading: into L2 with locality 2, into L1 with 3."""
    flags = [ir.Constant(I32, 0), ir.Constant(I32, locality), ir.Constant(I32, 1)]
    call(b, "llvm.prefetch.p0", ir.VoidType(), [_pointer(b, address, I8), *flags])


def _threads(v: dict[str, Any], low: Lowering) -> None:
    """What threads and the tape need: atomics, a pause, and calls through addresses."""

    def fetch_add(b: Any, a: list[Any]) -> Any:
        return b.atomic_rmw("add", _pointer(b, a[0], I64), a[1], "acq_rel")

    def load(b: Any, a: list[Any]) -> Any:
        return b.load_atomic(_pointer(b, a[0], I64), "acquire", 8)

    def store(b: Any, a: list[Any]) -> None:
        b.store_atomic(a[1], _pointer(b, a[0], I64), "release", 8)

    def invoke(b: Any, a: list[Any]) -> None:
        kind = ir.FunctionType(ir.VoidType(), [I64] * 3)
        b.call(b.inttoptr(a[0], kind.as_pointer()), a[1:])

    def invoke4(b: Any, a: list[Any]) -> None:
        kind = ir.FunctionType(I32, [I64] * 4)
        b.call(b.inttoptr(a[0], kind.as_pointer()), a[1:])

    def invoke0(b: Any, a: list[Any]) -> None:
        b.call(b.inttoptr(a[0], ir.FunctionType(I32, []).as_pointer()), [])

    i = types.int64
    v["atomic_add"] = _intrinsic(i, (i, i), fetch_add)
    v["atomic_load"] = _intrinsic(i, (i,), load)
    v["atomic_store"] = _intrinsic(types.void, (i, i), store)
    v["invoke"] = _intrinsic(types.void, (i, i, i, i), invoke)
    v["pause"] = _intrinsic(types.void, (), lambda b, a: low.pause(b))
    v["invoke4"] = _intrinsic(types.void, (i,) * 5, invoke4)
    v["invoke0"] = _intrinsic(types.void, (i,), invoke0)


def _memory(v: dict[str, Any], low: Lowering) -> None:
    F, N, address = low.F, low.I, types.int64
    halves = vector(I16, low.lanes)
    v["load_f"] = _intrinsic(F, (address,), lambda b, a: _load(b, a[0], F.ir))
    v["load_i"] = _intrinsic(N, (address,), lambda b, a: _load(b, a[0], N.ir))
    v["store_f"] = _intrinsic(types.void, (address, F), lambda b, a: _store(b, a[1], a[0]))
    v["store_i"] = _intrinsic(types.void, (address, N), lambda b, a: _store(b, a[1], a[0]))
    v["load_f16"] = _intrinsic(F, (address,), lambda b, a: low.half_to_float(b, _load(b, a[0], halves)))
    v["store_f16"] = _intrinsic(types.void, (address, F), lambda b, a: _store(b, low.float_to_half(b, a[1]), a[0]))
    v["load_bf16"] = _intrinsic(
        F,
        (address,),
        lambda b, a: b.bitcast(b.shl(b.zext(_load(b, a[0], halves), N.ir), fill(N.ir, 16)), F.ir),
    )
    bytes_ = vector(I8, low.lanes)
    v["load_i8"] = _intrinsic(N, (address,), lambda b, a: b.sext(_load(b, a[0], bytes_), N.ir))
    v["load_u8s"] = _intrinsic(N, (address,), lambda b, a: b.zext(_load(b, a[0], bytes_), N.ir))
    v["store_bf16"] = _intrinsic(types.void, (address, F), lambda b, a: _store(b, low.to_bf16(b, a[1]), a[0]))
    v["store_i8"] = _intrinsic(
        types.void, (address, N), lambda b, a: _store(b, b.trunc(a[1], vector(I8, low.lanes)), a[0])
    )


def _arithmetic(v: dict[str, Any], low: Lowering) -> None:
    F, N, lanes = low.F, low.I, low.lanes

    def pick(b: Any, comparison: str, x: Any, y: Any) -> Any:
        """x where it compares, else y, also where one is not a number: one instruction, unlike IEEE's maximum."""
        return b.select(b.fcmp_ordered(comparison, x, y), x, y)

    def half_bits(b: Any, a: list[Any]) -> Any:
        return b.zext(b.extract_element(low.float_to_half(b, splat(b, F, a[0])), ir.Constant(I32, 0)), I64)

    v["fma"] = _intrinsic(F, (F, F, F), lambda b, a: low.fma(b, *a))
    v["dot4"] = _intrinsic(N, (N, N, N), lambda b, a: low.dot4(b, *a))
    v["dot4_signed"] = _intrinsic(N, (N, N, N), lambda b, a: low.dot4_signed(b, *a))
    v["bf16_pairs"] = _intrinsic(N, (F, F), lambda b, a: low.bf16_pairs(b, *a))
    if low.bf16_dot:
        v["dot_bf16"] = _intrinsic(F, (F, N, N), lambda b, a: low.dot_bf16(b, *a))
    if low.pairs:
        v["pairs"] = _intrinsic(N, (N, N), lambda b, a: low.multiply_pairs(b, *a))
        v["add_pairs"] = _intrinsic(N, (N, N), lambda b, a: low.add_pairs(b, *a))
        v["join_pairs"] = _intrinsic(N, (N, N), lambda b, a: low.join_pairs(b, *a))
    v["to_f"] = _intrinsic(F, (N,), lambda b, a: b.sitofp(a[0], F.ir))
    v["round_i"] = _intrinsic(N, (F,), lambda b, a: low.round_to_int(b, a[0]))
    v["as_f"] = _intrinsic(F, (N,), lambda b, a: b.bitcast(a[0], F.ir))
    v["as_i"] = _intrinsic(N, (F,), lambda b, a: b.bitcast(a[0], N.ir))
    v["splat_f"] = _intrinsic(F, (types.float32,), lambda b, a: splat(b, F, a[0]))
    v["splat_i"] = _intrinsic(N, (types.int32,), lambda b, a: splat(b, N, a[0]))
    v["iota"] = _intrinsic(N, (), lambda b, a: ir.Constant(N.ir, list(range(lanes))))
    v["max"] = _intrinsic(F, (F, F), lambda b, a: pick(b, ">", *a))
    v["min"] = _intrinsic(F, (F, F), lambda b, a: pick(b, "<", *a))
    v["abs"] = _intrinsic(F, (F,), lambda b, a: call(b, f"llvm.fabs.v{lanes}f32", F.ir, a))
    v["less"] = _intrinsic(F, (N, N, F, F), lambda b, a: b.select(b.icmp_signed("<", a[0], a[1]), a[2], a[3]))
    v["above"] = _intrinsic(F, (F, F, F, F), lambda b, a: b.select(b.fcmp_ordered(">", a[0], a[1]), a[2], a[3]))
    v["first"] = _intrinsic(types.float32, (F,), lambda b, a: b.extract_element(a[0], ir.Constant(I32, 0)))
    v["half_bits"] = _intrinsic(types.int64, (types.float32,), half_bits)
    v["sum"] = _intrinsic(types.float32, (F,), lambda b, a: _tree(b, a[0], lanes, b.fadd))
    v["sum_i"] = _intrinsic(types.int32, (N,), lambda b, a: _tree(b, a[0], lanes, b.add))
    v["largest"] = _intrinsic(types.float32, (F,), lambda b, a: _tree(b, a[0], lanes, lambda x, y: pick(b, ">", x, y)))


def _masks(v: dict[str, Any], low: Lowering) -> None:
    """Comparisons, whose result is an i32 vector of -1 (true) and 0, and what is done with them."""
    F, N, lanes = low.F, low.I, low.lanes
    zero = fill(N.ir, 0)

    def float_mask(comparison: str) -> Codegen:
        return lambda b, a: b.sext(b.fcmp_ordered(comparison, a[0], a[1]), N.ir)

    def int_mask(comparison: str) -> Codegen:
        return lambda b, a: b.sext(b.icmp_signed(comparison, a[0], a[1]), N.ir)

    def choose(b: Any, a: list[Any]) -> Any:
        return b.select(b.icmp_signed("!=", a[0], zero), a[1], a[2])

    for name, comparison in (("gt", ">"), ("ge", ">="), ("eq", "==")):
        v[name] = _intrinsic(N, (F, F), float_mask(comparison))
        v[f"{name}_i"] = _intrinsic(N, (N, N), int_mask(comparison))
    v["choose"] = _intrinsic(F, (N, F, F), choose)
    v["choose_i"] = _intrinsic(N, (N, N, N), choose)
    v["min_i"] = _intrinsic(N, (N, N), lambda b, a: b.select(b.icmp_signed("<", *a), *a))
    v["max_i"] = _intrinsic(N, (N, N), lambda b, a: b.select(b.icmp_signed(">", *a), *a))
    v["any"] = _intrinsic(types.int64, (N,), lambda b, a: b.sext(_tree(b, a[0], lanes, b.or_), I64))


def _rounding(v: dict[str, Any], low: Lowering) -> None:
    """Conversions that encoders need beyond those of inference, and a square root of vectors."""
    F, N, lanes = low.F, low.I, low.lanes

    def half_i(b: Any, a: list[Any]) -> Any:
        """f32 → f16 bits to nearest even, infinite where IEEE says so; not for NaN."""
        bits = b.zext(low.float_to_half(b, a[0]), N.ir)
        size = b.and_(b.bitcast(a[0], N.ir), fill(N.ir, 0x7FFFFFFF))
        infinite = b.or_(b.and_(bits, fill(N.ir, 0x8000)), fill(N.ir, 0x7C00))
        return b.select(b.icmp_signed(">=", size, fill(N.ir, 0x477FF000)), infinite, bits)

    v["half_i"] = _intrinsic(N, (F,), half_i)
    v["half_f"] = _intrinsic(F, (N,), lambda b, a: low.half_to_float(b, b.trunc(a[0], vector(I16, lanes))))
    v["trunc_i"] = _intrinsic(N, (F,), lambda b, a: b.fptosi(a[0], N.ir))
    v["byte_table"] = lambda table: _intrinsic(N, (N,), lambda b, a: low.lookup(b, a[0], table))
    v["sqrt_f"] = _intrinsic(F, (F,), lambda b, a: call(b, f"llvm.sqrt.v{lanes}f32", F.ir, a))


def _columns(v: dict[str, Any], low: Lowering) -> None:
    """What turns rows into lanes, and lanes into addresses."""
    F, N, lanes, address = low.F, low.I, low.lanes, types.int64
    halves = vector(I16, lanes)

    def bf16(b: Any, at: Any) -> Any:
        return b.bitcast(b.shl(b.zext(_load(b, at, halves), N.ir), fill(N.ir, 16)), F.ir)

    loads: dict[str, Callable[[Any, Any], Any]] = {
        "f32": lambda b, at: _load(b, at, F.ir),
        "f16": lambda b, at: low.half_to_float(b, _load(b, at, halves)),
        "bf16": bf16,
    }

    def transpose(load: Callable[[Any, Any], Any]) -> Codegen:
        def emit(b: Any, a: list[Any]) -> None:
            """`lanes` elements of each of `lanes` rows, a[1] bytes apart at a[0] → as many f32 vectors at a[2]."""
            rows = [load(b, b.add(a[0], b.mul(a[1], I64(r)))) for r in range(lanes)]
            for i, column in enumerate(transposed(b, rows)):
                _store(b, column, b.add(a[2], I64(4 * lanes * i)))

        return emit

    def gather(kind: Any) -> Codegen:
        def emit(b: Any, a: list[Any]) -> Any:
            """Lane by lane the 32 bits at a[0] + 4 × index; every index must be within the table."""
            out = ir.Constant(kind, ir.Undefined)
            for lane in range(lanes):
                index = b.sext(b.extract_element(a[1], I32(lane)), I64)
                value = _load(b, b.add(a[0], b.shl(index, I64(2))), kind.element)
                out = b.insert_element(out, value, I32(lane))
            return out

        return emit

    v["rows"] = _row_loader(N)
    v["evens_first"] = _intrinsic(N, (N,), lambda b, a: evens_first(b, a[0]))
    for name, load in loads.items():
        v[f"transpose_{name}"] = _intrinsic(types.void, (address,) * 3, transpose(load))
    v["gather_f"] = _intrinsic(F, (address, N), gather(F.ir))
    v["gather_i"] = _intrinsic(N, (address, N), gather(N.ir))


def _row_loader(vec: Vec) -> Any:
    """`v.rows(at, stride, ints, n)`: 16 bytes of each of `lanes` rows, `stride` apart → ints[n] to ints[n + 3]."""
    quad = vector(I32, 4)

    def emit(b: Any, at: Any, stride: Any) -> list[Any]:
        rows = [_load(b, b.add(at, b.mul(stride, I64(r))), quad) for r in range(vec.lanes)]
        # Each vector has rows i, i + 4, i + 8, ..., four words of each.
        return transposed(b, [joined(b, rows[i::4]) for i in range(4)])

    @intrinsic
    def rows(typingctx: Any, at: Any, stride: Any, ints: Any, n: Any) -> Any:
        def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            for i, word in enumerate(emit(builder, args[0], args[1])):
                builder.store(word, builder.gep(args[2], [builder.add(args[3], I64(i))]))
            return context.get_dummy_value()

        return types.void(types.int64, types.int64, ints, types.int64), codegen

    return rows


def _tile_primitive(numbers: int, arguments: int, emit: Callable[..., None]) -> Any:
    """An intrinsic of `numbers` constant tile numbers and `arguments` int64: `emit(builder, *numbers, *arguments)`."""

    def typing(typingctx: Any, *given: Any) -> Any:
        tiles = [number.literal_value for number in given[:numbers]]

        def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            emit(builder, *tiles, *args[numbers:])
            return context.get_dummy_value()

        return types.void(*given[:numbers], *[types.int64] * arguments), codegen

    names = ", ".join(f"a{i}" for i in range(numbers + arguments))
    scope: dict[str, Any] = {"typing": typing}
    exec(f"def primitive(typingctx, {names}):\n    return typing(typingctx, {names})\n", scope)
    return intrinsic(prefer_literal=True)(scope["primitive"])


def _tiles(v: dict[str, Any], low: Lowering) -> None:
    """Tile registers of 16 rows of 64 bytes, where the level has them."""
    if isinstance(low, EmulatedAmx):
        v["tile_state"] = _intrinsic(types.int64, (), lambda b, a: low.tile_state(b))
        v["tile_shapes"] = _intrinsic(types.int64, (), lambda b, a: low.tile_shapes(b))
        v["trap"] = _intrinsic(types.void, (), lambda b, a: call(b, "llvm.trap", ir.VoidType(), []))
        v.update(emulated_tiles(_as_module("emulated", v)))
    elif isinstance(low, Amx):
        v["tile_config"] = _intrinsic(types.void, (), lambda b, a: low.tile_config(b))
        v["tile_release"] = _intrinsic(types.void, (), lambda b, a: low.tile_release(b))
        v["tile_zero"] = _tile_primitive(1, 0, low.tile_zero)
        v["tile_load"] = _tile_primitive(1, 2, low.tile_load)
        v["tile_store"] = _tile_primitive(1, 2, low.tile_store)
        v["tile_dot_bf16"] = _tile_primitive(3, 0, low.tile_dot_bf16)


def _registers(vec: Vec) -> Any:
    """`v.floats(n)` / `v.ints(n)`: n vectors, n a constant."""

    @intrinsic(prefer_literal=True)
    def make(typingctx: Any, count: Any) -> Any:
        n = count.literal_value
        kind = Registers(vec, n)

        def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            return cgutils.alloca_once(builder, vec.ir, size=n)

        return kind(count), codegen

    return make


def _math(v: dict[str, Any]) -> None:
    """exp of vectors: e^x = 2^n e^r with |r| <= ln 2 / 2, a polynomial of degree 6 (relative error below 3e-7)."""
    module = _as_module("math", v)
    log2e, high, low = 1.4426950408889634, 0.693359375, -2.12194440e-4
    coefficients = (1.0 / 720, 1.0 / 120, 1.0 / 24, 1.0 / 6, 0.5, 1.0)
    c0, c1, c2, c3, c4, c5 = coefficients

    @helper
    def exp(x):
        m = module
        x = m.max(m.min(x, m.splat_f(88.0)), m.splat_f(-87.0))
        n = m.round_i(x * m.splat_f(log2e))
        nf = m.to_f(n)
        r = m.fma(nf, m.splat_f(-high), x)
        r = m.fma(nf, m.splat_f(-low), r)
        p = m.splat_f(c0)
        p = m.fma(p, r, m.splat_f(c1))
        p = m.fma(p, r, m.splat_f(c2))
        p = m.fma(p, r, m.splat_f(c3))
        p = m.fma(p, r, m.splat_f(c4))
        p = m.fma(p, r, m.splat_f(c5))
        p = m.fma(p, r, m.splat_f(1.0))
        return p * m.as_f((n + m.splat_i(127)) << 23)

    v["exp"] = exp


def _as_module(name: str, members: dict[str, Any]) -> ModuleType:
    module = ModuleType(f"ggufpy_simd_{name}")
    module.__dict__.update(members)
    return module


@functools.cache
def primitives(level: Level) -> ModuleType:
    """Everything that a kernel of this level may call; L is its lanes, the other capitals how it differs."""
    low = LOWERINGS[level.lowering](level.lanes, has_bf16_dot(level))
    v: dict[str, Any] = {
        "L": level.lanes,
        "REGISTERS": level.registers,
        "S8_BIAS": low.signed8_bias,
        "WIDE_DOT": low.wide_dot,
        "PAIRS": low.pairs,
        "BF16_DOT": low.bf16_dot,
        "TILES": has_tiles(level),
        "floats": _registers(low.F),
        "ints": _registers(low.I),
        "njit": helper,
        "whole": whole,
    }
    _scalars(v)
    _threads(v, low)
    _memory(v, low)
    _arithmetic(v, low)
    _masks(v, low)
    _rounding(v, low)
    _columns(v, low)
    _math(v)
    _tiles(v, low)
    return _as_module(level.name, v)


__all__ = ["Struct", "primitives"]
