"""View: no call. Other ops find it by address and stride.

Kernels take whole blocks of 32 columns and let the padding of a row's last one be zeros, so a view must be whole blocks
of its buffer, or end where the buffer ends. A copy would not do: what is changed in place must change in both.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ggufpy.backends.cpu.kernels.layout import BLOCK
from ggufpy.backends.cpu.lowering import Call, Lowering
from ggufpy.errors import GGUFError
from ggufpy.models.op import Op
from ggufpy.models.ops import View

LOWERS = (View,)


def lower(to: Lowering, ops: Sequence[Op]) -> tuple[int, Iterator[Call]]:
    op = ops[0]
    assert isinstance(op, View)
    end, width = op.at + op.width, to.width(op.x)
    if op.at < 0 or op.width < 1 or end > width:
        raise ValueError(f"{op}: {op.x} has {width} columns")
    if op.at % BLOCK or (end % BLOCK and end != width):
        raise GGUFError(
            f"the model takes columns {op.at} to {end} of {op.x} ({width}) apart: ggufpy runs that for multiples "
            f"of {BLOCK} only"
        )
    return 1, iter(())
