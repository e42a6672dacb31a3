"""Blocks of a type → f32 weights.

    blocks   [n_blocks] blocks of the type, one after the other
    out      [n_blocks][weights of a block] f32

The decoder is `decode(at, out)`: the block at `at` → its weights, f32, from `out` on. Where a block is a single weight,
it takes a vector's lanes of them, and n_blocks must be at least that many. Runs on one thread. Constant: type (a module
of `ggufpy.quants` whose BLOCK has `block_decoder`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from ggufpy import quants
from ggufpy.jit.spec import struct

ARGS = struct("blocks_ptr", "n_blocks", "out_ptr")


def build(v: Any, p: Mapping[str, Any]) -> Callable[..., None]:
    block = quants.get(p["type"])
    decode, nbytes, width = block.block_decoder(v), block.nbytes, 4 * block.weights
    step = v.L if block.weights == 1 else 1

    def blocks(args, ith, nth):
        for i in range(0, args.n_blocks, step):
            first = min(i, args.n_blocks - step)  # the last ones again rather than fewer
            decode(args.blocks_ptr + nbytes * first, args.out_ptr + width * first)

    return blocks
