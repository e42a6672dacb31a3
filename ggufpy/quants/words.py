"""Blocks of as many rows as a vector has lanes, a row in each lane: what integer panels are packed from in one go.

`backends/cpu/kernels/pack_blocks.py` brings the blocks in as i32 vectors of four bytes of each row. Builders here take
the primitives `v` of a level and return the functions that a type's `lane_fields` is made of:

    codes(work, s, out)   out[g], g = 0 to 7: the codes of columns 4 g to 4 g + 3 of the block's s-th 32, a byte each
    scale(work, s, h)     the f32 scale of half h of them (the whole where a group is 32); so, too, minima
"""

from __future__ import annotations

from typing import Any

from ggufpy.quants.base import BlockType, Field

PIECE = 16  # bytes of each row that are loaded at a time: `v.rows`
NIBBLES = 0x0F0F0F0F


class Words:
    """Where the bytes of a block come to lie in `count` vectors.

    `pieces` are (byte of the block, first of its four vectors). None reaches past the block, and each word of a field
    is whole in a vector: blocks of, say, 18 bytes are loaded in two phases, from byte 0 and from byte 2.
    """

    def __init__(self, block: BlockType) -> None:
        self._nbytes = block.nbytes
        self._starts: dict[str, tuple[int, Field]] = {}
        start = 0
        for field in block.layout:
            self._starts[field.name] = start, field
            start += field.nbytes
        wanted: dict[int, set[int]] = {}  # phase: bytes where pieces begin
        for start, field in self._starts.values():
            phase = self._phase(start, field.nbytes)
            last = self._nbytes - PIECE - (self._nbytes - PIECE - phase) % 4
            first = start - (start - phase) % 4
            covered = wanted.setdefault(phase, set())
            for at in range(first, start + field.nbytes, 4):
                if not any(piece <= at < piece + PIECE for piece in covered):
                    covered.add(min(at, last))
        pieces, self._base, count = [], {}, 0
        for phase, begins in sorted(wanted.items()):
            self._base[phase] = count - min(begins) // 4
            pieces += [(at, self._base[phase] + at // 4) for at in sorted(begins)]
            count += (max(begins) - min(begins) + PIECE) // 4
        self.pieces, self.count = tuple(pieces), count

    def _phase(self, start: int, nbytes: int) -> int:
        """Which bytes, modulo 4, begin the words that hold a field."""
        if nbytes >= 4:
            return start % 4
        word = start - start % 4
        return 0 if start + nbytes <= word + 4 <= self._nbytes else self._nbytes % 4

    def first(self, name: str) -> int:
        """The vector with the first four bytes of a field, whose next ones are in the next vectors."""
        start, _ = self._starts[name]
        return self._base[start % 4] + start // 4

    def small(self, name: str) -> tuple[int, int]:
        """The vector that holds a field of less than four bytes, and the bits below it there."""
        start, field = self._starts[name]
        phase = self._phase(start, field.nbytes)
        return self._base[phase] + (start - phase) // 4, 8 * ((start - phase) % 4)


def half_field(v: Any, words: Words, name: str) -> Any:
    """A scale or minimum that is an f16 field."""
    at, shift = words.small(name)

    @v.njit
    def half(work, s, h):
        return v.half_f(work[at] >> shift)

    return half


def byte_field(v: Any, first: int) -> Any:
    """byte(work, j): the j-th byte of a field."""

    @v.njit
    def byte(work, j):
        return (work[first + j // 4] >> (j % 4 * 8)) & v.splat_i(255)

    return byte


def nibble_codes(v: Any, first: int) -> Any:
    """Codes in runs of 16 bytes, the first 16 in the low halves."""

    @v.njit
    def codes(work, s, out):
        for g in range(4):
            word = work[first + 4 * s + g]
            out[g] = word & v.splat_i(NIBBLES)
            out[4 + g] = (word >> 4) & v.splat_i(NIBBLES)

    return codes


def plane_codes(v: Any, first: int, bits: int, width: int = 32) -> Any:
    """Codes in runs of `width` bytes: those of plane i, which is as long, are bits from i · bits on of each byte."""
    parts, mask = width // 32, 0x01010101 * ((1 << bits) - 1)
    each = parts * (8 // bits)

    @v.njit
    def codes(work, s, out):
        at = first + s // each * (8 * parts) + s % parts * 8
        shift = s % each // parts * bits
        for g in range(8):
            out[g] = (work[at + g] >> shift) & v.splat_i(mask)

    return codes


def bit_codes(v: Any, first: int) -> Any:
    """Codes of a bit, 32 a word: a multiplication brings four bits to where their bytes begin."""

    @v.njit
    def codes(work, s, out):
        word = work[first + s]
        for g in range(8):
            four = (word >> (4 * g)) & v.splat_i(15)
            out[g] = (four * v.splat_i(0x00204081)) & v.splat_i(0x01010101)

    return codes


def byte_codes(v: Any, first: int) -> Any:
    """Codes around 128 of signed bytes."""

    @v.njit
    def codes(work, s, out):
        for g in range(8):
            out[g] = work[first + 8 * s + g] ^ v.splat_i(-0x7F7F7F80)

    return codes


def joined_codes(v: Any, low: Any, high: Any, shift: int) -> Any:
    """Codes whose upper bits, from `shift` on, stand elsewhere."""

    @v.njit
    def codes(work, s, out):
        upper = v.ints(8)
        low(work, s, out)
        high(work, s, upper)
        for g in range(8):
            out[g] = out[g] | (upper[g] << shift)

    return codes


def level_codes(v: Any, indices: Any, table: bytes) -> Any:
    """Codes that a table has for indices of four bits."""
    look = v.byte_table(table[:16])

    @v.njit
    def codes(work, s, out):
        indices(work, s, out)
        for g in range(8):
            out[g] = look(out[g])

    return codes
