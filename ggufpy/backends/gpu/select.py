"""Rows of the body's x that become those of the head: copied by what the step says (`StepAddresses.sources`)."""

from __future__ import annotations

from .device import Launch
from .elementwise import QUAD, THREADS, places, spec
from .lowering import BLOCK, Place
from .source import KernelSpec

_SELECT = spec("select_rows", ["x"], "y", (("sources", "const int*"),))


def select(sources: int, x: Place, y: Place, width: int, rows: int) -> Launch:
    """Row i of y becomes row sources[i] (int32) of x, for so many rows of `width` columns and what pads them."""
    columns = -(-width // BLOCK) * BLOCK
    values = {**places(x=x, y=y), "sources": sources, "columns": columns, "end": columns}
    grid = (-(-columns // (QUAD * THREADS)), rows, 1)
    return Launch(_SELECT, _SELECT.record(values), grid, THREADS)


def examples() -> list[KernelSpec]:
    """One of each kernel that is made here."""
    return [_SELECT]
