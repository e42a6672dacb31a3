"""Blocks → float32 in compiled code, on several threads where there are many; and what decoders are made of.

Builders take the primitives `v` of a level and return a function for kernels. Products and sums are rounded one by one,
so that weights have the bits that `BlockType.decode_blocks` gives them.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np

from ggufpy.quants.base import BlockType, Bytes, Floats
from ggufpy.quants.encoding import PART
from ggufpy.support.cores import default_threads

if TYPE_CHECKING:
    from ggufpy.simd.isa import Level


def decode_blocks(block: BlockType, blocks: Bytes, out: Floats) -> None:
    """(m, nbytes) contiguous uint8 → (m, weights) contiguous float32; m × weights at least a vector's lanes."""
    count = max(out.size // PART, 1)
    ends = [len(blocks) * i // count for i in range(count + 1)]
    threads = min(default_threads(), count)
    if threads == 1:
        run_kernel(block, blocks, out)
        return
    with ThreadPoolExecutor(threads) as pool:
        for _ in pool.map(lambda part: run_kernel(block, blocks[part], out[part]), map(slice, ends, ends[1:])):
            pass


def run_kernel(block: BlockType, blocks: Bytes, out: Floats, level: Level | None = None) -> None:
    """As `decode_blocks`, on the calling thread; by default at the best level that gives right answers."""
    from ggufpy.jit.cache import library
    from ggufpy.jit.spec import kernel, load_source
    from ggufpy.quants.trial import level_for

    code = kernel("decode", type=block.name.lower())
    args = np.zeros((), load_source(code).ARGS)
    args["blocks_ptr"], args["n_blocks"], args["out_ptr"] = blocks.ctypes.data, len(blocks), out.ctypes.data
    library(level or level_for(code)).call(code, args)


def half_at(v: Any) -> Any:
    """half_at(at): the f16 at an address, in all lanes."""

    @v.njit
    def half_at(at):
        return v.half_f(v.splat_i(v.load_u16(at)))

    return half_at


def put(v: Any) -> Any:
    """put(out, codes, offset, scale): (codes - offset) · scale to `out`."""

    @v.njit
    def put(out, codes, offset, scale):
        v.store_f(out, v.to_f(codes - v.splat_i(offset)) * scale)

    return put


def put_above(v: Any) -> Any:
    """put_above(out, codes, scale, minimum): codes · scale + minimum to `out`."""

    @v.njit
    def put_above(out, codes, scale, minimum):
        v.store_f(out, v.to_f(codes) * scale + minimum)

    return put_above


def fifth_bits(v: Any) -> Any:
    """fifth_bits(at, i): bit i of the u32 at an address, and the next ones in the next lanes, as 16 or 0."""

    @v.njit
    def fifth_bits(at, i):
        power = v.splat_i(1)
        for bit in range(4):
            odd = v.gt_i(v.iota() & v.splat_i(1 << bit), v.splat_i(0))
            power = v.choose_i(odd, power << (1 << bit), power)
        bits = v.splat_i(v.load_u16(at + i // 16 * 2) >> (i % 16))
        return v.choose_i(v.eq_i(bits & power, power), v.splat_i(16), v.splat_i(0))

    return fifth_bits
