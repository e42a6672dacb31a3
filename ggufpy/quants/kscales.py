"""The 6-bit scales and minima that Q4_K and Q5_K share."""

from __future__ import annotations

import numpy as np

from ggufpy.quants.base import Bytes, Floats, Records
from ggufpy.quants.bits import compact


def scales_and_minima(rec: Records) -> tuple[Floats, Floats]:
    """(rows, blocks) records with d, dmin, scales → d * sc and -dmin * mn, both (rows, blocks, 8)."""
    first, second, last = np.split(compact(rec["scales"]), 3, axis=-1)
    sc = np.concatenate([first & np.uint8(63), _upper(first) | last & np.uint8(15)], axis=-1)
    mn = np.concatenate([second & np.uint8(63), _upper(second) | last >> np.uint8(4)], axis=-1)
    scale = rec["d"].astype(np.float32)[..., None] * sc.astype(np.float32)
    minimum = -rec["dmin"].astype(np.float32)[..., None] * mn.astype(np.float32)
    return scale, minimum


def _upper(packed: Bytes) -> Bytes:
    """The upper two bits of each byte, as bits 4 and 5."""
    upper: Bytes = (packed >> np.uint8(2)) & np.uint8(48)
    return upper
