"""The yardsticks of `ggufpy bench`: what is measured at a level, not how fast it is."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from engine import LEVELS, Room, run

from ggufpy.backends.cpu import machine
from ggufpy.backends.cpu.kernels.measure import operations
from ggufpy.jit.spec import kernel
from ggufpy.simd import isa
from ggufpy.simd.isa import EMULATED, Level


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "ROUNDS", 10)
    monkeypatch.setattr(machine, "TILE_ROUNDS", 10)
    monkeypatch.setattr(machine, "READ_BYTES", 1 << 20)


def test_peaks_are_of_what_the_level_multiplies_with(quick: None) -> None:
    found = machine.peaks(2)
    assert list(found) == list(operations(isa.current()))
    assert min(found.values()) > 0
    assert machine.read_rate(1) > 0


def test_the_peak_of_matrix_products_is_the_best_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "peaks", lambda n_threads: {"dot4": 2.0, "bf16": 7.0 * n_threads, "fma": 1.0})
    assert machine.matrix_peak(2) == 14.0


def test_operations_are_counted_for_each_instruction(monkeypatch: pytest.MonkeyPatch) -> None:
    by_name = {level.name: level for level in isa.LEVELS}
    monkeypatch.setattr(isa, "host_features", lambda: frozenset({"avx512bf16"}))
    assert operations(by_name["avx2"]) == {"dot4": 64, "fma": 16}
    assert operations(by_name["avx512"]) == {"dot4": 128, "fma": 32, "bf16": 64}
    assert operations(by_name["amx"]) == {"dot4": 128, "fma": 32, "bf16": 64, "tiles": 16384}


def test_a_rate_is_operations_over_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_timed", lambda what, buffer, size, threads, repeats: 0.5)
    monkeypatch.setattr(machine, "current", lambda: EMULATED)
    assert machine.peaks(3)["tiles"] == machine.TILE_ROUNDS * 12 * 16384 * 3 / 0.5


@pytest.mark.parametrize("level", [*LEVELS, EMULATED], ids=lambda level: level.name)
def test_every_measure_runs(level: Level) -> None:
    """Their sums are right where they can be known: products of bytes and of bf16 pairs with ones in memory."""
    ones: Any = np.full(4096, 1, np.uint8)
    pairs: Any = np.full(2048, 0x3F80, np.uint16)
    for what in operations(level):
        result = Room(np.zeros(16, np.int32))
        buffer = Room(pairs if what in ("bf16", "tiles") else ones)
        run(kernel("measure", what=what), level, buffer_ptr=buffer, n_units=3, result_ptr=result)
        first = int(result.array[0])
        start = sum(range(12))
        if what == "dot4":
            assert first == level.lanes * (start + 12 * 3 * 4)
        if what == "bf16":
            assert result.array.view(np.float32)[0] == level.lanes * (start + 12 * 3 * 2)
