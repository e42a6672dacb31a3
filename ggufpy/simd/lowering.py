"""What differs between CPU families: how a handful of primitives become LLVM IR.

`Lowering` is the portable way, in plain vector IR that every target compiles; a family overrides what it does better.
`I` and `F` are the level's i32 and f32 vectors; bytes travel four to an i32 lane.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir

from .emulated import STATE_SYMBOL
from .vectors import Vec

I8, I16, I32, I64 = ir.IntType(8), ir.IntType(16), ir.IntType(32), ir.IntType(64)


def call(builder: Any, name: str, result: Any, args: list[Any]) -> Any:
    """Calls an LLVM intrinsic by name, declaring it on first use."""
    module = builder.module
    function = module.globals.get(name)
    if function is None:
        function = ir.Function(module, ir.FunctionType(result, [a.type for a in args]), name)
    return builder.call(function, args)


def vector(element: Any, count: int) -> ir.VectorType:
    return ir.VectorType(element, count)


def fill(kind: ir.VectorType, value: float) -> ir.Constant:
    return ir.Constant(kind, [value] * kind.count)


class Lowering:
    """Portable lowering. `signed8_bias` is what `dot4_signed` adds for each unit of the activations' sum;
    `wide_dot` says that `dot4` is exact for unsigned bytes of 128 and more; `pairs` that it is made of i16 sums of two
    products, which `multiply_pairs`, `add_pairs` and `join_pairs` then give piecemeal."""

    signed8_bias = 0
    wide_dot = True
    pairs = False

    def __init__(self, lanes: int, bf16_dot: bool = False) -> None:
        self.lanes, self.bf16_dot = lanes, bf16_dot
        self.F, self.I = Vec("f32", lanes), Vec("i32", lanes)

    def fma(self, b: Any, x: Any, y: Any, z: Any) -> Any:
        return b.fadd(b.fmul(x, y), z)

    def pause(self, b: Any) -> None:
        """Tells the core that it is waiting; nothing where no instruction is known."""

    def dot4(self, b: Any, acc: Any, unsigned: Any, signed: Any) -> Any:
        """acc + Σ of four unsigned × signed byte products in each lane, exact for all bytes."""
        wide = vector(I16, 2 * self.lanes)
        u, s = b.bitcast(unsigned, wide), b.bitcast(signed, wide)
        eight = fill(wide, 8)
        pairs = [
            (b.and_(u, fill(wide, 255)), b.ashr(b.shl(s, eight), eight)),
            (b.lshr(u, eight), b.ashr(s, eight)),
        ]
        for x, y in pairs:
            acc = b.add(acc, self._madd(b, x, y))
        return acc

    def _madd(self, b: Any, x: Any, y: Any) -> Any:
        """i16 × i16, neighbours added to i32: the shape that LLVM turns into pmaddwd where there is one."""
        n = 2 * self.lanes
        product = b.mul(b.sext(x, vector(I32, n)), b.sext(y, vector(I32, n)))
        undef = ir.Constant(product.type, ir.Undefined)
        pick = [ir.Constant(vector(I32, self.lanes), list(range(odd, n, 2))) for odd in (0, 1)]
        return b.add(*(b.shuffle_vector(product, undef, mask) for mask in pick))

    def multiply_pairs(self, b: Any, unsigned: Any, signed: Any) -> Any:
        raise NotImplementedError

    def add_pairs(self, b: Any, x: Any, y: Any) -> Any:
        raise NotImplementedError

    def join_pairs(self, b: Any, acc: Any, pairs: Any) -> Any:
        raise NotImplementedError

    def dot4_signed(self, b: Any, acc: Any, offset128: Any, signed: Any) -> Any:
        """acc + Σ (byte - 128) × signed - signed8_bias × Σ signed; activations are never -128."""
        wide = vector(I16, 2 * self.lanes)
        flipped = b.xor(offset128, fill(self.I.ir, -0x7F7F7F80))
        w, s = b.bitcast(flipped, wide), b.bitcast(signed, wide)
        eight = fill(wide, 8)
        acc = b.add(acc, self._madd(b, b.ashr(b.shl(w, eight), eight), b.ashr(b.shl(s, eight), eight)))
        return b.add(acc, self._madd(b, b.ashr(w, eight), b.ashr(s, eight)))

    def half_to_float(self, b: Any, halves: Any) -> Any:
        """<n x i16> of f16 bits → f32, without hardware conversion: shift the bits, rescale the exponent."""
        wide = b.zext(halves, self.I.ir)
        magnitude = b.shl(b.and_(wide, fill(self.I.ir, 0x7FFF)), fill(self.I.ir, 13))
        value = b.fmul(b.bitcast(magnitude, self.F.ir), fill(self.F.ir, 2.0**112))
        huge = b.icmp_unsigned(">=", magnitude, fill(self.I.ir, 0x0F800000))
        bits = b.bitcast(value, self.I.ir)
        bits = b.select(huge, b.or_(bits, fill(self.I.ir, 0x7F800000)), bits)
        sign = b.shl(b.and_(wide, fill(self.I.ir, 0x8000)), fill(self.I.ir, 16))
        return b.bitcast(b.or_(bits, sign), self.F.ir)

    def float_to_half(self, b: Any, value: Any) -> Any:
        """f32 → <n x i16> of f16 bits, to nearest even, saturating at the largest finite half."""
        kind = self.I.ir
        bits = b.bitcast(value, kind)
        sign = b.and_(bits, fill(kind, -0x80000000))
        size = b.xor(bits, sign)
        size = b.select(b.icmp_unsigned(">", size, fill(kind, 0x477FE000)), fill(kind, 0x477FE000), size)
        rounding = b.add(b.and_(b.lshr(size, fill(kind, 13)), fill(kind, 1)), fill(kind, 0xFFF))
        normal = b.sub(b.lshr(b.add(size, rounding), fill(kind, 13)), fill(kind, 112 << 10))
        # Below 2^-14, adding 0.5 leaves the half's subnormal bits in the low bits of the sum.
        small = b.fadd(b.bitcast(size, self.F.ir), fill(self.F.ir, 0.5))
        subnormal = b.sub(b.bitcast(small, kind), fill(kind, 0x3F000000))
        half = b.select(b.icmp_unsigned("<", size, fill(kind, 0x38800000)), subnormal, normal)
        half = b.or_(half, b.lshr(sign, fill(kind, 16)))
        return b.trunc(half, vector(I16, self.lanes))

    def _bf16_above(self, b: Any, value: Any) -> Any:
        """f32 → i32 with its bf16, to nearest even, in the upper half and anything in the lower; NaNs stay NaNs."""
        kind = self.I.ir
        bits = b.bitcast(value, kind)
        odd = b.and_(b.lshr(bits, fill(kind, 16)), fill(kind, 1))
        rounded = b.add(bits, b.add(odd, fill(kind, 0x7FFF)))
        return b.select(b.fcmp_unordered("uno", value, value), b.or_(bits, fill(kind, 0x400000)), rounded)

    def to_bf16(self, b: Any, value: Any) -> Any:
        """f32 → <n x i16> of bf16 bits, to nearest even."""
        return b.trunc(b.lshr(self._bf16_above(b, value), fill(self.I.ir, 16)), vector(I16, self.lanes))

    def bf16_pairs(self, b: Any, low: Any, high: Any) -> Any:
        """Two f32 vectors → their bf16 as the lower and upper halves of i32 lanes."""
        upper = b.and_(self._bf16_above(b, high), fill(self.I.ir, -0x10000))
        return b.or_(b.lshr(self._bf16_above(b, low), fill(self.I.ir, 16)), upper)

    def dot_bf16(self, b: Any, acc: Any, x: Any, y: Any) -> Any:
        raise NotImplementedError

    def round_to_int(self, b: Any, value: Any) -> Any:
        """f32 → i32 to nearest even, for |value| < 2^22: adding 1.5 × 2^23 leaves the integer in the low bits."""
        magic = 12582912.0
        shifted = b.bitcast(b.fadd(value, fill(self.F.ir, magic)), self.I.ir)
        return b.sub(shifted, fill(self.I.ir, 0x4B400000))

    def lookup(self, b: Any, indices: Any, table: bytes) -> Any:
        """Bytes below 16 → the bytes of `table` at these places, by halving what may be chosen four times."""
        bytes_ = vector(I8, 4 * self.lanes)
        at = b.bitcast(indices, bytes_)
        left = [fill(bytes_, value) for value in table]
        for bit in range(4):
            odd = b.icmp_unsigned("!=", b.and_(at, fill(bytes_, 1 << bit)), fill(bytes_, 0))
            left = [b.select(odd, left[i + 1], left[i]) for i in range(0, len(left), 2)]
        return b.bitcast(left[0], self.I.ir)


class Hardware(Lowering):
    """A CPU with fused multiply-add and f16 conversion."""

    def fma(self, b: Any, x: Any, y: Any, z: Any) -> Any:
        return call(b, f"llvm.fma.v{self.lanes}f32", self.F.ir, [x, y, z])

    def half_to_float(self, b: Any, halves: Any) -> Any:
        # The bits are loaded as i16; a cast to half and fpext is one conversion instruction.
        return b.fpext(b.bitcast(halves, vector(ir.HalfType(), self.lanes)), self.F.ir)

    def float_to_half(self, b: Any, value: Any) -> Any:
        top = fill(self.F.ir, 65504.0)
        value = call(b, f"llvm.minnum.v{self.lanes}f32", self.F.ir, [value, top])
        value = call(b, f"llvm.maxnum.v{self.lanes}f32", self.F.ir, [value, fill(self.F.ir, -65504.0)])
        return b.bitcast(b.fptrunc(value, vector(ir.HalfType(), self.lanes)), vector(I16, self.lanes))


class X86(Hardware):
    """What the x86 levels share."""

    shuffle = ""  # LLVM's name of pshufb

    def pause(self, b: Any) -> None:
        call(b, "llvm.x86.sse2.pause", ir.VoidType(), [])

    def lookup(self, b: Any, indices: Any, table: bytes) -> Any:
        bytes_ = vector(I8, 4 * self.lanes)
        places = ir.Constant(bytes_, [*table] * (self.lanes // 4))
        return b.bitcast(call(b, self.shuffle, bytes_, [places, b.bitcast(indices, bytes_)]), self.I.ir)


class Avx512(X86):
    """AVX-512 with VNNI: dot4 is one instruction."""

    signed8_bias = -128
    shuffle = "llvm.x86.avx512.pshuf.b.512"

    def dot4(self, b: Any, acc: Any, unsigned: Any, signed: Any) -> Any:
        # Newer LLVM types the operands as bytes and still reads this older form.
        return call(b, "llvm.x86.avx512.vpdpbusd.512", self.I.ir, [acc, unsigned, signed])

    def dot4_signed(self, b: Any, acc: Any, offset128: Any, signed: Any) -> Any:
        return self.dot4(b, acc, offset128, signed)

    def to_bf16(self, b: Any, value: Any) -> Any:
        if not self.bf16_dot:
            return super().to_bf16(b, value)
        return call(b, "llvm.x86.avx512bf16.cvtneps2bf16.512", vector(I16, self.lanes), [value])

    def bf16_pairs(self, b: Any, low: Any, high: Any) -> Any:
        if not self.bf16_dot:
            return super().bf16_pairs(b, low, high)
        n = self.lanes
        both = call(b, "llvm.x86.avx512bf16.cvtne2ps2bf16.512", vector(I16, 2 * n), [high, low])  # low ones first
        turns = ir.Constant(vector(I32, 2 * n), [i // 2 + n * (i % 2) for i in range(2 * n)])
        return b.bitcast(b.shuffle_vector(both, ir.Constant(both.type, ir.Undefined), turns), self.I.ir)

    def dot_bf16(self, b: Any, acc: Any, x: Any, y: Any) -> Any:
        return call(b, "llvm.x86.avx512bf16.dpbf16ps.512", self.F.ir, [acc, x, y])  # newer LLVM: as for dot4


def tile_shapes(b: Any) -> Any:
    """The address of 64 bytes on the stack that give all eight tiles 16 rows of 64 bytes.

    Intel SDM, LDTILECFG: palette 1, then bytes a row from 16, rows from 48. On the stack, because a constant of the
    module needs a relocation, and what that becomes is up to whoever links.
    """
    with b.goto_entry_block():
        memory = b.alloca(ir.ArrayType(I64, 8))
        memory.align = 64
    wide, rows = 64 * 0x0001000100010001, 16 * 0x0101010101010101
    for i, word in enumerate((1, 0, wide, wide, 0, 0, rows, 0)):
        b.store(I64(word), b.gep(memory, [I32(0), I32(i)]))
    return memory


class Amx(Avx512):
    """AVX-512 and tiles: eight registers of 16 rows of 64 bytes. Tile numbers are Python integers."""

    def tile_config(self, b: Any) -> None:
        """All tiles get 16 rows of 64 bytes, and zeros."""
        call(b, "llvm.x86.ldtilecfg", ir.VoidType(), [b.bitcast(tile_shapes(b), I8.as_pointer())])

    def tile_release(self, b: Any) -> None:
        call(b, "llvm.x86.tilerelease", ir.VoidType(), [])

    def tile_zero(self, b: Any, n: int) -> None:
        call(b, "llvm.x86.tilezero", ir.VoidType(), [I8(n)])

    def tile_load(self, b: Any, n: int, address: Any, stride: Any) -> None:
        call(b, "llvm.x86.tileloadd64", ir.VoidType(), [I8(n), _bytes_at(b, address), stride])

    def tile_store(self, b: Any, n: int, address: Any, stride: Any) -> None:
        call(b, "llvm.x86.tilestored64", ir.VoidType(), [I8(n), _bytes_at(b, address), stride])

    def tile_dot_bf16(self, b: Any, c: int, x: int, y: int) -> None:
        call(b, "llvm.x86.tdpbf16ps", ir.VoidType(), [I8(c), I8(x), I8(y)])


def _bytes_at(b: Any, address: Any) -> Any:
    return b.inttoptr(address, I8.as_pointer())


class EmulatedAmx(Lowering):
    """Tiles in memory of each thread's own: `emulated.py` has what is done with them."""

    def tile_state(self, b: Any) -> Any:
        """The address of the thread's tiles and their configuration."""
        return call(b, STATE_SYMBOL, I64, [])

    def tile_shapes(self, b: Any) -> Any:
        return b.ptrtoint(tile_shapes(b), I64)


class Avx2(X86):
    """AVX2: byte products are added in saturating pairs, so unsigned bytes must stay below 128."""

    wide_dot = False
    pairs = True
    shuffle = "llvm.x86.avx2.pshuf.b"

    def multiply_pairs(self, b: Any, unsigned: Any, signed: Any) -> Any:
        """Σ of two neighbouring unsigned × signed products in each i16, saturating."""
        words, bytes_ = vector(I16, 2 * self.lanes), vector(I8, 4 * self.lanes)
        operands = [b.bitcast(x, bytes_) for x in (unsigned, signed)]
        return b.bitcast(call(b, "llvm.x86.avx2.pmadd.ub.sw", words, operands), self.I.ir)

    def add_pairs(self, b: Any, x: Any, y: Any) -> Any:
        words = vector(I16, 2 * self.lanes)
        return b.bitcast(b.add(b.bitcast(x, words), b.bitcast(y, words)), self.I.ir)

    def join_pairs(self, b: Any, acc: Any, pairs: Any) -> Any:
        """acc + both i16 of each lane."""
        words = vector(I16, 2 * self.lanes)
        return b.add(acc, call(b, "llvm.x86.avx2.pmadd.wd", self.I.ir, [b.bitcast(pairs, words), fill(words, 1)]))

    def dot4(self, b: Any, acc: Any, unsigned: Any, signed: Any) -> Any:
        return self.join_pairs(b, acc, self.multiply_pairs(b, unsigned, signed))

    def dot4_signed(self, b: Any, acc: Any, offset128: Any, signed: Any) -> Any:
        bytes_ = vector(I8, 4 * self.lanes)
        w = b.bitcast(b.xor(offset128, fill(self.I.ir, -0x7F7F7F80)), bytes_)
        s = b.bitcast(signed, bytes_)
        size = b.select(b.icmp_signed("<", w, fill(bytes_, 0)), b.neg(w), w)
        signed_by_w = call(b, "llvm.x86.avx2.psign.b", bytes_, [s, w])
        return self.dot4(b, acc, size, signed_by_w)


class Neon(Hardware):
    """Arm with the dot-product extension; unsigned bytes stay below 128, so the signed product serves both."""

    wide_dot = False

    def lookup(self, b: Any, indices: Any, table: bytes) -> Any:
        bytes_ = vector(I8, 4 * self.lanes)
        args = [ir.Constant(bytes_, [*table]), b.bitcast(indices, bytes_)]
        return b.bitcast(call(b, "llvm.aarch64.neon.tbl1.v16i8", bytes_, args), self.I.ir)

    def dot4(self, b: Any, acc: Any, unsigned: Any, signed: Any) -> Any:
        bytes_ = vector(I8, 4 * self.lanes)
        args = [acc, b.bitcast(unsigned, bytes_), b.bitcast(signed, bytes_)]
        return call(b, "llvm.aarch64.neon.sdot.v4i32.v16i8", self.I.ir, args)

    def dot4_signed(self, b: Any, acc: Any, offset128: Any, signed: Any) -> Any:
        return self.dot4(b, acc, b.xor(offset128, fill(self.I.ir, -0x7F7F7F80)), signed)


LOWERINGS: dict[str, type[Lowering]] = {
    "amx": Amx,
    "amx_emulated": EmulatedAmx,
    "avx512": Avx512,
    "avx2": Avx2,
    "neon": Neon,
    "portable": Lowering,
}
