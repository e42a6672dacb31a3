"""What ops by element share: a launch over rows of floats, four columns a thread (`kernels/elementwise.cuh`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from .device import Launch
from .lowering import BLOCK, Lowering, Place
from .source import KernelSpec

QUAD = 4  # columns that a thread has at once: 16 bytes
THREADS = 128  # few, so that one row of a decode step is shared by many multiprocessors
Args = tuple[tuple[str, str], ...]


def spec(
    name: str, reads: Sequence[str], into: str, more: Args = (), defines: tuple[tuple[str, str | int], ...] = ()
) -> KernelSpec:
    """A kernel that reads rows `reads` and writes rows `into` (each NAME and NAME_stride), as many `columns` as it says
    and zeros behind them to `end`. It may take more."""
    pointers = [(name, "const float*") for name in reads] + [(into, "float*")]
    strides = [(f"{name}_stride", "long long") for name, _ in pointers]
    return KernelSpec(name, (*pointers, *strides, ("columns", "int"), ("end", "int"), *more), defines, THREADS)


def places(**of: Place) -> dict[str, int]:
    """The arguments for rows by their names."""
    return {
        **{name: place.address for name, place in of.items()},
        **{f"{name}_stride": place.stride for name, place in of.items()},
    }


def end(to: Lowering, name: str, width: int) -> int:
    """Up to which column zeros are written behind `width` columns: to the end of the block, but for a view that has
    columns of something else behind it."""
    buffer, at = to.views.place(name)
    return width if buffer != name and at + width < to.width(buffer) else -(-width // BLOCK) * BLOCK


def launch(to: Lowering, code: KernelSpec, into: str, width: int, values: Mapping[str, int | float]) -> Launch:
    """A thread for each quad of `width` columns of `into`, and of what is written behind them, in all of the rows."""
    last = end(to, into, width)
    grid = (-(-last // (QUAD * THREADS)), to.shape.end, 1)
    return to.launch(code, {**values, "columns": width, "end": last}, grid)
