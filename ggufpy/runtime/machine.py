"""What this machine can do at the current SIMD level, measured with kernels: the yardsticks of `ggufpy bench`."""

from __future__ import annotations

import time

from ggufpy.kernels.cache import library
from ggufpy.kernels.measure import OPERATIONS
from ggufpy.kernels.spec import kernel
from ggufpy.simd import isa

from .memory import Region
from .tape import Call, Tape
from .threads import Team

READ_BYTES = 256 << 20  # a thread; far beyond any cache share of it


def _timed(what: str, buffer: Region, size: int, threads: int, repeats: int) -> float:
    """Seconds of the fastest of `repeats` runs."""
    code = kernel("measure", what=what)
    result = Region(64 * threads, "result")
    arguments = {"buffer": buffer.at(0, buffer.nbytes), "size": size, "result": result.at(0, 64 * threads)}
    tape = Tape([Call(code, arguments, frozenset(), frozenset())], library(isa.current()))
    team = Team(threads, library(isa.current()))
    best = float("inf")
    try:
        for _ in range(repeats):
            start = time.perf_counter()
            tape.run(team)
            best = min(best, time.perf_counter() - start)
    finally:
        team.close()
    return best


def read_rate(n_threads: int) -> float:
    """Bytes a second that `n_threads` threads read from memory, each walking four arrays at once."""
    buffer = Region(READ_BYTES * n_threads, "the read test")
    buffer.bytes[::4096] = 1  # touch every page
    return buffer.nbytes / _timed("read", buffer, buffer.nbytes, n_threads, 5)


def matrix_peak(n_threads: int) -> float:
    """Operations a second (multiply and add are two) of the faster of byte products and float multiply-adds."""
    buffer = Region(4096, "the arithmetic test")
    rounds = 1_000_000
    lanes = isa.current().lanes
    each = {"dot4": 8 * lanes, "fma": 2 * lanes}
    rates = [rounds * OPERATIONS * ops * n_threads / _timed(w, buffer, rounds, n_threads, 3) for w, ops in each.items()]
    return max(rates)
