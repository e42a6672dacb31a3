"""What keys and values are kept in: f16, bf16, q8_0 or q4_0, and how a head's page of 128 positions lies in memory.

    keys     [tile of `lanes` positions][dimension][position of the tile]      so a vector is one dimension of a tile
    values   [position][dimension, padded to whole vectors]

With 16 lanes and 64 dimensions in f16 a page has 8 key tiles of 64 vectors of 32 bytes, 16 KiB: dimension 5 of position
19 is number 3 of vector 5 of tile 1, at byte 2048 + 5 · 32 + 3 · 2. Its value is at 19 · 128 + 5 · 2.

q8_0 and q4_0 have an f16 scale for each 32 dimensions, and ggml's rounding:

    key tile    [32 dimensions]: 32 (q8_0) or 16 (q4_0) vectors of bytes, then a vector of f16 scales
    value row   codes of all dimensions, then the f16 scales of all

A byte of q4_0 holds dimension i of 32 below and i + 16 above. What is stored is always finite, so that weight 0 times
it is 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ggufpy.errors import GGUFError

PAGE = 128  # positions of a page, and of a piece of attention
BLOCK = 32  # dimensions that share a scale
NAMES = ("f16", "bf16", "q8_0", "q4_0")


@dataclass(frozen=True)
class KvType:
    """One of NAMES, and how many bytes it takes for heads of a length, at a level's lanes."""

    name: str

    @property
    def scaled(self) -> bool:
        return self.name.startswith("q")

    @property
    def bits(self) -> int:
        return {"q8_0": 8, "q4_0": 4}.get(self.name, 16)

    def check(self, length: int, what: str) -> None:
        """Raises GGUFError for heads that this type cannot hold."""
        if self.scaled and length % BLOCK:
            raise GGUFError(f"a {self.name} cache wants {what} of a multiple of 32 numbers; the model's have {length}")

    def block_bytes(self, lanes: int) -> int:
        """Bytes of 32 dimensions of a key tile, with their scales."""
        return (BLOCK * self.bits // 8 + 2) * lanes

    def tile_bytes(self, length: int, lanes: int) -> int:
        """Bytes of a tile: the keys of `lanes` positions."""
        return length // BLOCK * self.block_bytes(lanes) if self.scaled else length * lanes * 2

    def row_bytes(self, length: int, lanes: int) -> int:
        """Bytes of the values of one position."""
        if self.scaled:
            return length * self.bits // 8 + length // BLOCK * 2
        return -(-length // lanes) * lanes * 2

    def key_page(self, length: int, lanes: int) -> int:
        """Bytes of one head's keys in a page."""
        return PAGE // lanes * self.tile_bytes(length, lanes)

    def value_page(self, length: int, lanes: int) -> int:
        """Bytes of one head's values in a page."""
        return PAGE * self.row_bytes(length, lanes)


def of_name(name: str) -> KvType:
    """Raises GGUFError for a type that a cache cannot be kept in."""
    if name not in NAMES:
        raise GGUFError(f"the key/value cache cannot be kept in {name!r}: it can in {', '.join(NAMES)}")
    return KvType(name)


def key_reader(v: Any, kind: KvType, length: int) -> tuple[Any, Any, int]:
    """(code(tile, d), scale(tile, b), dimensions of a block): code · scale is dimension d of a tile's positions."""
    L, name, block = v.L, kind.name, kind.block_bytes(v.L)

    @v.njit
    def code(tile, d):
        if name == "f16":
            return v.load_f16(tile + d * L * 2)
        if name == "bf16":
            return v.load_bf16(tile + d * L * 2)
        at = tile + d // BLOCK * block
        i = d % BLOCK
        if name == "q8_0":
            return v.to_f(v.load_i8(at + i * L))
        both = v.load_u8s(at + i % 16 * L)
        return v.to_f((both & v.splat_i(15) if i < 16 else both >> 4) - v.splat_i(8))

    @v.njit
    def scale(tile, b):
        return v.load_f16(tile + (b + 1) * block - 2 * L)

    return code, scale, BLOCK if kind.scaled else length


def value_reader(v: Any, kind: KvType, length: int) -> Any:
    """value(row, j) loads a vector of a position's dimensions, from j · lanes on."""
    L, name = v.L, kind.name
    codes = length * kind.bits // 8

    @v.njit
    def value(row, j):
        if name == "f16":
            return v.load_f16(row + j * L * 2)
        if name == "bf16":
            return v.load_bf16(row + j * L * 2)
        d = j * L
        b, i = d // BLOCK, d % BLOCK
        scale = v.splat_f(v.first(v.load_f16(row + codes + 2 * b)))
        if name == "q8_0":
            return v.to_f(v.load_i8(row + d)) * scale
        both = v.load_u8s(row + 16 * b + i % 16)
        return v.to_f((both & v.splat_i(15) if i < 16 else both >> 4) - v.splat_i(8)) * scale

    return value


@dataclass(frozen=True)
class Steps:
    """Distances in bytes where one position is written: between codes, between blocks' codes, and their scales."""

    code: int
    block: int
    scale: int


def key_steps(kind: KvType, lanes: int) -> Steps:
    """In a key tile: from lane l on, codes begin at l · `KvType.bits` / 8 or l (q4_0), scales at l · 2."""
    if not kind.scaled:
        return Steps(2 * lanes, 0, 0)
    return Steps(lanes, kind.block_bytes(lanes), kind.block_bytes(lanes))


def value_steps(kind: KvType) -> Steps:
    """In a value row, where codes follow each other."""
    return Steps(1, BLOCK * kind.bits // 8, 2) if kind.scaled else Steps(2, 0, 0)


def writer(v: Any, kind: KvType, length: int, steps: Steps) -> Any:
    """write(source, codes, scales) writes `length` floats of one position to where its first code and scale are."""
    name = kind.name
    code_step, block_step, scale_step = steps.code, steps.block, steps.scale

    @v.njit
    def finite(at, most):
        return v.first(v.max(v.min(v.splat_f(v.load_f32(at)), v.splat_f(most)), v.splat_f(-most)))

    @v.njit
    def halves(source, codes, scales):
        for i in range(length):
            v.store_u16(codes + i * code_step, v.half_bits(v.load_f32(source + 4 * i)))

    @v.njit
    def bfloats(source, codes, scales):
        for i in range(length):
            v.store_f32(source + 4 * i, finite(source + 4 * i, 3.38e38))
            bits = v.load_i32(source + 4 * i) & 0xFFFFFFFF
            v.store_u16(codes + i * code_step, (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16)

    @v.njit
    def quantised(source, codes, scales):
        for b in range(length // BLOCK):
            x, out = source + 4 * BLOCK * b, codes + b * block_step
            top = 0.0
            for i in range(BLOCK):
                value = finite(x + 4 * i, 1e30)
                if abs(value) > abs(top):
                    top = value
            d = abs(top) / 127.0 if name == "q8_0" else top / -8.0
            v.store_u16(scales + b * scale_step, v.half_bits(d))
            inverse = 1.0 / d if d != 0.0 else 0.0
            if name == "q8_0":
                for i in range(BLOCK):
                    value = finite(x + 4 * i, 1e30) * inverse
                    v.store_u8(out + i * code_step, int(value + 0.5) if value >= 0 else -int(0.5 - value))
            else:
                for i in range(BLOCK // 2):
                    low = min(15, int(finite(x + 4 * i, 1e30) * inverse + 8.5))
                    high = min(15, int(finite(x + 4 * i + 64, 1e30) * inverse + 8.5))
                    v.store_u8(out + i * code_step, low | high << 4)

    return quantised if kind.scaled else bfloats if name == "bf16" else halves


def position_reader(v: Any, kind: KvType, length: int, steps: Steps) -> Any:
    """read(codes, scales, out) reads one position back to `length` floats: the inverse of `writer`."""
    name = kind.name
    code_step, block_step, scale_step = steps.code, steps.block, steps.scale

    @v.njit
    def plain(codes, scales, out):
        for i in range(length):
            at = codes + i * code_step
            v.store_f32(out + 4 * i, v.first(v.load_f16(at) if name == "f16" else v.load_bf16(at)))

    @v.njit
    def scaled(codes, scales, out):
        for i in range(length):
            b, j = i // BLOCK, i % BLOCK
            scale = v.first(v.load_f16(scales + b * scale_step))
            if name == "q8_0":
                code = v.first(v.to_f(v.load_i8(codes + b * block_step + j * code_step)))
            else:
                both = v.load_u8(codes + b * block_step + j % 16 * code_step)
                code = (both & 15 if j < 16 else both >> 4) - 8.0
            v.store_f32(out + 4 * i, code * scale)

    return scaled if kind.scaled else plain
