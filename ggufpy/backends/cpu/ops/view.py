"""View: no call. Other ops find it by address and stride.

Kernels take whole blocks of 32 columns and let the padding of a row's last one be zeros, so a view must be whole blocks
of its buffer, or end where the buffer ends. A copy would not do: what is changed in place must change in both.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ggufpy.backends.cpu.kernels.layout import BLOCK
from ggufpy.backends.cpu.lowering import Call, Lowering
from ggufpy.models.op import Op
from ggufpy.models.ops import View
from ggufpy.models.views import check_blocks

LOWERS = (View,)


def lower(to: Lowering, ops: Sequence[Op]) -> tuple[int, Iterator[Call]]:
    op = ops[0]
    assert isinstance(op, View)
    check_blocks(op, to.width(op.x), BLOCK)
    return 1, iter(())
