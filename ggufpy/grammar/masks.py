"""Sets of tokens as words: token t is bit t % 32 of word t // 32."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

Words = NDArray[np.uint32]


def bits(tokens: Iterable[int], n_vocab: int) -> Words:
    """Words, uint32 (ceil(n_vocab / 32),), with the bits of `tokens`."""
    flags = np.zeros(-(-n_vocab // 32) * 32, np.uint8)
    flags[np.fromiter(tokens, np.int64)] = 1
    return np.packbits(flags, bitorder="little").view("<u4").astype(np.uint32)


def has(words: Words, token: int) -> bool:
    """Whether `token` is among them."""
    return bool(words[token // 32] >> np.uint32(token % 32) & np.uint32(1))
