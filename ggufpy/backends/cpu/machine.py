"""What this machine can do at the current SIMD level, measured with kernels: the yardsticks of `ggufpy bench`."""

from __future__ import annotations

import time

from ggufpy.backends.cpu.kernels.measure import OPERATIONS, operations
from ggufpy.jit.cache import library
from ggufpy.jit.spec import kernel
from ggufpy.jit.verdicts import current

from .lowering import Call
from .memory import Region
from .tape import Tape
from .threads import Team

READ_BYTES = 256 << 20  # a thread; far beyond any cache share of it
ROUNDS, TILE_ROUNDS = 1_000_000, 100_000  # milliseconds of arithmetic


def _timed(what: str, buffer: Region, size: int, threads: int, repeats: int) -> float:
    """Seconds of the fastest of `repeats` runs."""
    code = kernel("measure", what=what)
    result = Region(64 * threads, "result")
    arguments = {"buffer_ptr": buffer.at(0, buffer.nbytes), "n_units": size, "result_ptr": result.at(0, 64 * threads)}
    tape = Tape([Call(code, arguments, frozenset(), frozenset())], library(current()))
    team = Team(threads, library(current()))
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


def peaks(n_threads: int) -> dict[str, float]:
    """Operations a second (multiply and add are two) of what the level multiplies with.

    "dot4": byte products; "fma": float32 multiply-adds; "bf16": dot products of bf16 pairs; "tiles": bf16 tiles.
    """
    buffer = Region(4096, "the arithmetic test")
    rates = {}
    for what, each in operations(current()).items():
        rounds = TILE_ROUNDS if what == "tiles" else ROUNDS
        seconds = _timed(what, buffer, rounds, n_threads, 3)
        rates[what] = rounds * OPERATIONS * each * n_threads / seconds
    return rates


def matrix_peak(n_threads: int) -> float:
    """Operations a second of the fastest of `peaks`."""
    return max(peaks(n_threads).values())
