"""Rows in another form than float32: 8-bit codes with a scale for each 16 columns, for products with matrices of codes.

A row is a signed byte for each column, filled up to whole blocks of 32, then for each block four float32: the scales of
its two halves, and scale · sum of the codes of each. Rows begin at 16 bytes.
"""

from __future__ import annotations

from collections.abc import Iterator

from ggufpy.support.records import dataclass

from .device import Launch
from .lowering import BLOCK, Lowering
from .source import KernelSpec

QUAD, THREADS = 4, 128  # columns of a thread; threads of a block, few so that a row is spread over multiprocessors
TOGETHER = 8  # rows that a kernel may read at once, there or not: so there is room for them
FORM = "q8:"
EVERY = "q8 of all:"  # the same where bulk rows have theirs, too

SPEC = KernelSpec(
    "quantise",
    (
        ("x", "const float*"), ("x_stride", "long long"), ("q", "signed char*"), ("q_stride", "long long"),
        ("blocks", "int"), ("columns", "int"),
    ),
    (),
    THREADS,
)  # fmt: skip


@dataclass(frozen=True)
class EightBits:
    """Where rows in 8 bits are: the address of the first, and bytes from row to row."""

    address: int
    stride: int


def eight_bits(to: Lowering, name: str) -> EightBits:
    """Where the rows of a buffer or view go, which `quantised` makes."""
    blocks = -(-to.width(name) // BLOCK)
    stride = blocks * (BLOCK + 16)
    rows = -(-to.shape.end // TOGETHER) * TOGETHER
    return EightBits(to.parts.room(FORM + name, rows * stride), stride)


def quantised(to: Lowering, name: str, every: bool = False) -> Iterator[Launch]:
    """Makes the 8-bit rows of a buffer or view unless they are up to date: of the exact rows, or of `every` row."""
    if to.made(EVERY + name) or (to.made(FORM + name) and not every):
        return
    place, rows, columns = to.place(name), eight_bits(to, name), to.width(name)
    blocks = -(-columns // BLOCK)
    values = {
        "x": place.address, "x_stride": place.stride, "q": rows.address, "q_stride": rows.stride, "blocks": blocks,
        "columns": columns,
    }  # fmt: skip
    count = to.shape.end if every else to.shape.few
    yield to.launch(SPEC, values, (-(-blocks * BLOCK // (QUAD * THREADS)), count, 1))
    to.note(FORM + name)
    if every:
        to.note(EVERY + name)


def examples() -> list[KernelSpec]:
    """The kernel."""
    return [SPEC]
