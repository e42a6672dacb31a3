"""Pieces that several kernels share: 8-bit quantisation of activations, soft caps, and where threads wait."""

from __future__ import annotations

from typing import Any

SPINS = 4096


def barrier(v: Any) -> Any:
    """wait(barrier, give_way, nth): returns once `nth` threads have called it.

        barrier   i64 threads that have arrived | 56 bytes | i64 rounds that are done

    Each has a cache line of its own. Waiting spins, and after a while gives the processor away (`give_way` is the
    address of sched_yield), so that more threads than cores make progress.
    """

    @v.njit
    def wait(barrier, give_way, nth):
        rounds = v.atomic_load(barrier + 64)
        if v.atomic_add(barrier, 1) == nth - 1:
            v.atomic_store(barrier, 0)
            v.atomic_store(barrier + 64, rounds + 1)
        else:
            spins = 0
            while v.atomic_load(barrier + 64) == rounds:
                spins += 1
                if spins < SPINS:
                    v.pause()
                else:
                    v.invoke0(give_way)

    return wait


def quantiser(v: Any) -> Any:
    """quantise(source, q, b, blocks): 32 floats at `source` → block b of the quantised row at q.

        i8 codes [blocks][32] | f32 scales [blocks][2] | i32 -sums [blocks][2] | f32 scales · sums [blocks][2]

    This is an 8-bit row. Of two blocks its parts begin at bytes 0, 64, 80 and 96, and end at 112. A code is x / scale
    to nearest even, the scale of 16 columns the largest of their magnitudes over 127, the sum that of their codes.
    """
    vectors = 16 // v.L

    @v.njit
    def quantise(source, q, b, blocks):
        for half in range(2):
            start = source + 64 * half
            largest = v.abs(v.load_f(start))
            for i in range(1, vectors):
                largest = v.max(largest, v.abs(v.load_f(start + 4 * v.L * i)))
            top = v.largest(largest)
            inverse = v.splat_f(127.0 / top if top > 1e-30 else 0.0)
            sums = v.splat_i(0)
            for i in range(vectors):
                code = v.round_i(v.load_f(start + 4 * v.L * i) * inverse)
                v.store_i8(q + 32 * b + 16 * half + v.L * i, code)
                sums = sums + code
            at = q + 32 * blocks + 8 * b + 4 * half
            scale, total = top / 127.0, v.sum_i(sums)
            v.store_f32(at, scale)
            v.store_i32(at + 8 * blocks, -total)
            v.store_f32(at + 16 * blocks, scale * total)

    return quantise


def capper(v: Any) -> Any:
    """capped(x, cap): cap · tanh(x / cap), to 2e-7 of cap. With t = e^-2|x / cap| it is cap · (1 - t) / (1 + t)."""

    @v.njit
    def capped(x, cap):
        one, zero = v.splat_f(1.0), v.splat_f(0.0)
        t = v.exp(v.abs(x) * v.splat_f(-2.0 / cap))
        size = v.splat_f(cap) * (one - t) / (one + t)
        return v.above(zero, x, zero - size, size)

    return capped
