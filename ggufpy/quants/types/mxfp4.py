"""MXFP4: OCP microscaling: 4-bit floats (E2M1) with a power-of-two scale."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ggufpy.quants.base import BlockType, Field, Fields, Floats, IntPanel, Records
from ggufpy.quants.bits import code_table, compact, planes, remap
from ggufpy.quants.codebooks import E2M1_LEVELS, e2m1, magnitude
from ggufpy.quants.lanes import put_nibbles
from ggufpy.quants.words import Words, level_codes, nibble_codes

TABLE = code_table(E2M1_LEVELS, 16)


class MXFP4(BlockType):
    """OCP microscaling: 4-bit floats (E2M1) with a power-of-two scale.

    The levels: 0, 1, 2, 3, 4, 6, 8, 12, then the same negative.
    """

    name = "MXFP4"
    id = 39
    weights = 32
    nbytes = 17
    layout = (
        Field("e", "u8", 1, "exponent of the scale: 2 to the power e - 127"),
        Field(
            "qs",
            "u8",
            16,
            "byte j: index q of weight j in the low four bits, of weight j + 16 in the high four",
        ),
    )
    formula = "2^(e - 128) * level[q], level being twice the E2M1 value"
    panel = IntPanel(5, 32, 16)
    encoder = "lanes"
    uses_importance = False
    packer = "lanes"

    def unpack(self, rec: Records) -> Fields:
        """Codes and scales, losslessly."""
        codes = remap(planes(compact(rec["qs"]), 4), TABLE)
        return Fields(codes, np.take(scale_table(), rec["e"]))

    def lane_fields(self, v: Any) -> tuple[Any, Any, Any]:
        """Two indices a byte; the scale's exponent, below 2 that of a subnormal."""
        words = Words(self)
        at, shift = words.small("e")

        @v.njit
        def scale(work, s, h):
            e = (work[at] >> shift) & v.splat_i(255)
            normal, subnormal = (e - v.splat_i(1)) << 23, (e + v.splat_i(1)) << 21
            return v.as_f(v.choose_i(v.gt_i(e, v.splat_i(1)), normal, subnormal))

        return level_codes(v, nibble_codes(v, words.first("qs")), TABLE), scale, None

    def faults(self, records: Records) -> Iterator[tuple[Field, NDArray[np.bool_]]]:
        """255 is NaN in the OCP format; ggml, too, refuses it when it checks a file."""
        yield self.layout[0], records["e"] == np.uint8(255)

    def tables(self) -> Sequence[NDArray[Any]]:
        """`round_up`, for the encoder."""
        return (round_up(),)

    def lane_encoder(self, v: Any, weighted: bool) -> Any:
        """A scale that puts the largest magnitude between levels 8 and 16; an importance changes nothing.

        Magnitudes below 2^-125, for which ggml's scale wraps around, have the least scale there is.
        """
        size = 4 * v.L
        magnitude_of, nearest, nibbles = magnitude(v, 32), e2m1(v), put_nibbles(v)

        @v.njit
        def encode(x, w, mean, out, work, tables):
            bits = v.as_i(magnitude_of(x))
            exponent, fraction = bits >> 23, bits & v.splat_i(0x7FFFFF)
            above = v.ge_i(fraction, v.gather_i(v.load_i64(tables), exponent))
            e = v.max_i(exponent - above - v.splat_i(2), v.splat_i(0))
            subnormal = (e + v.splat_i(1)) << 21  # 2^(e - 128) for e of 0 and 1
            normal = (e - v.splat_i(1)) << 23
            scale = v.as_f(v.choose_i(v.gt_i(e, v.splat_i(1)), normal, subnormal))
            v.store_i8(out, e)
            for i in range(32):
                v.store_i(work + size * i, nearest(v.load_f(x + size * i), scale))
            nibbles(out, 1, work)

        return encode


@cache
def round_up() -> NDArray[np.int32]:
    """(256,) by biased exponent: the fraction from which ggml takes a float32 for the next power of two.

    It takes the logarithm in float32, which rounds up to a whole number for the last few floats below a power of two.
    Not so here for those below 2^128, whose levels would be infinite.
    """
    limit = np.full(256, 1 << 23, np.int32)
    last = np.arange((1 << 23) - 64, 1 << 23)
    for exponent in range(1, 254):
        exact = np.log2(1 + last / (1 << 23)) + (exponent - 127)
        up = np.floor(exact.astype(np.float32)) > exponent - 127
        limit[exponent] -= np.count_nonzero(up)
    return limit


@cache
def scale_table() -> Floats:
    """(256,) half of E8M0: 2 to the power e - 128, exact down to the subnormals."""
    table: Floats = np.ldexp(np.float32(1), np.arange(256, dtype=np.int32) - 128)
    return table


BLOCK = MXFP4()
