"""TQ1_0: ternary weights, five to a byte, with a scale."""

from __future__ import annotations

from typing import Any

import numpy as np

from ggufpy.quants.base import BlockType, Bytes, Field, Fields, IntPanel, Records
from ggufpy.quants.bits import compact
from ggufpy.quants.codebooks import ternary
from ggufpy.quants.lanes import put_half

# (first weight, bytes, digits a byte, place of the first byte)
RUNS = ((0, 32, 5, 0), (160, 16, 5, 32), (240, 4, 4, 48))


class TQ1_0(BlockType):
    """Ternary weights, five to a byte, with a scale."""

    name = "TQ1_0"
    id = 34
    weights = 256
    nbytes = 54
    layout = (
        Field(
            "qs",
            "u8",
            48,
            "a run of 32 bytes, then of 16; base-3 digits q of weights l, l + w, l + 2w, ... (w the run),"
            " most significant first, as a fraction of 256",
        ),
        Field("qh", "u8", 4, "a run of 4 bytes with four digits each"),
        Field("d", "f16", 1, "scale"),
    )
    formula = "d * (q - 1)"
    panel = IntPanel(2, 32, 1)
    encoder = "lanes"
    uses_importance = False

    def unpack(self, rec: Records) -> Fields:
        """Codes and scales, losslessly."""
        qs = compact(rec["qs"])
        runs = ((qs[..., :32], 5), (qs[..., 32:], 5), (compact(rec["qh"]), 4))
        codes = np.concatenate([_digit(run, i) for run, count in runs for i in range(count)], axis=-1)
        scale = np.repeat(rec["d"].astype(np.float32), 8, axis=1)
        return Fields(codes, scale)

    def lane_encoder(self, v: Any, weighted: bool) -> Any:
        """Each weight to the nearest of -1, 0 and 1 times the largest magnitude; an importance changes nothing."""
        L, size = v.L, 4 * v.L
        half, ternary_codes = put_half(v), ternary(v, 256)

        @v.njit
        def run(codes, out, first, count, digits):
            for j in range(count):
                total = v.splat_i(0)
                for i in range(digits):
                    total = total * v.splat_i(3) + v.load_i(codes + size * (first + j + count * i))
                if digits == 4:
                    total = total * v.splat_i(3)
                fraction = (total << 8) + v.splat_i(242)  # over 243, rounded up: 17261 / 2^22 is close enough
                v.store_i8(out + L * j, (fraction * v.splat_i(17261)) >> 22)

        @v.njit
        def encode(x, w, mean, out, work, tables):
            scale = ternary_codes(x, work)
            for first, count, digits, place in RUNS:
                run(work, out + L * place, first, count, digits)
            half(out, 52, scale)

        return encode


def _digit(run: Bytes, i: int) -> Bytes:
    """Base-3 digit i of each byte: times 3^i, the digits before it overflow; times 3 / 256, it is left."""
    rest = (run * np.uint8(3**i)).astype(np.uint16)
    digit: Bytes = (rest * np.uint16(3) >> np.uint16(8)).astype(np.uint8)
    return digit


BLOCK = TQ1_0()
