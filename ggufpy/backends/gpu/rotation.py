"""Rotary angles of a step's rows on the device, one launch a rope, from the positions that the step says."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

from ggufpy.models.ops import Rope
from ggufpy.models.rope import frequencies, magnitude

from .device import Launch
from .source import KernelSpec
from .step import StepAddresses

ARGS = (("out", "float*"), ("positions", "const int*"), ("rows", "int"), ("distance", "int"), ("magnitude", "float"))


def angle_bytes(rope: Rope, rows: int) -> int:
    """Bytes of (rows, dimensions / 2, 2) float32."""
    return 4 * rows * max(rope.dimensions, 1)


def angle_works(
    ropes: Iterable[Rope], step: StepAddresses, rows: int, address_of: Callable[[Rope], int]
) -> list[Launch]:
    """For the beginning of a step: the angles of its first `rows` rows, to where each rope's are."""
    return [
        _launch(rope, {"out": address_of(rope), "positions": step.positions, "rows": rows, "distance": 0,
                       "magnitude": magnitude(rope)})
        for rope in ropes
        if rope.dimensions
    ]  # fmt: skip


def distance_work(rope: Rope, distance: int, address: int) -> Launch:
    """One row of angles for what is turned already and moves by `distance`: the magnitude stays as it is."""
    return _launch(rope, {"out": address, "positions": 0, "distance": distance, "rows": 1, "magnitude": 1.0})


def _launch(rope: Rope, values: dict[str, int | float]) -> Launch:
    spec = angle_spec(rope)
    numbers = int(values["rows"]) * (rope.dimensions // 2)
    return Launch(spec, spec.record(values), (-(-numbers // spec.threads), 1, 1), spec.threads)


def angle_spec(rope: Rope) -> KernelSpec:
    """A rope's frequencies are constants of its kernel: a model has one rope or two, and nothing has to be uploaded."""
    turns = ", ".join(repr(float(one) / (2 * math.pi)) for one in frequencies(rope))
    return KernelSpec("angles", ARGS, (("PAIRS", rope.dimensions // 2), ("TURNS", turns)), threads=128)


def examples() -> list[KernelSpec]:
    """One of each variant."""
    return [angle_spec(Rope(128, 500_000.0))]
