"""Norm: one launch, which makes 8-bit rows too where a matrix reads them. Where it stands beside an addition to the
residual stream, `residual.py` has both."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ggufpy.backends.gpu import coded, residual
from ggufpy.backends.gpu.device import Work
from ggufpy.backends.gpu.elementwise import QUAD, end, places, spec
from ggufpy.backends.gpu.lowering import Lowering
from ggufpy.backends.gpu.norms import WARP, Shape, kind, shape_of, vector
from ggufpy.backends.gpu.source import KernelSpec
from ggufpy.models.op import Op
from ggufpy.models.ops import Norm

LOWERS = (Norm,)
_MORE = (
    ("weight", "const float*"), ("weight_step", "int"), ("bias", "const float*"), ("bias_step", "int"),
    ("parts", "int"), ("eps", "float"), *coded.ARGS,
)  # fmt: skip


def lower(to: Lowering, ops: Sequence[Op]) -> tuple[int, Iterator[Work]]:
    if found := residual.begins(to, ops):
        return found.taken, residual.works(to, found)
    op = ops[0]
    assert isinstance(op, Norm)
    return 1, _works(to, op, ops[1:])


def _works(to: Lowering, op: Norm, behind: Sequence[Op]) -> Iterator[Work]:
    width = op.groups * op.part
    last = end(to, op.y, width)
    shape = shape_of(op.groups, op.part + last - width)
    weight, weight_step = vector(to, op, op.weight)
    bias, bias_step = vector(to, op, op.bias)
    rows = coded.rows_wanted(to, op.y, width, behind) if op.groups == 1 and shape.roomy else 0
    values = {
        **places(x=to.place(op.x), y=to.place(op.y)), "weight": weight, "weight_step": weight_step, "bias": bias,
        "bias_step": bias_step, "columns": op.part, "end": last, "parts": op.groups, "eps": op.eps,
        **coded.codes(to, op.y, rows),
    }  # fmt: skip
    blocks = -(-op.groups * shape.warps * WARP // shape.threads)
    yield to.launch(_spec(kind(op), shape, _aligned(op)), values, (blocks, to.shape.end, 1))


def _aligned(op: Norm) -> bool:
    """Whether each part begins at a quad."""
    return op.groups == 1 or op.part % QUAD == 0


def _spec(kind: str, shape: Shape, aligned: bool) -> KernelSpec:
    made = spec("norm_rows", ["x"], "y", _MORE)
    return KernelSpec(made.name, made.args, (("KIND", kind), *shape.defines, ("ALIGNED", int(aligned))), shape.threads)


def examples() -> list[KernelSpec]:
    """One of each kind, and of each way to share parts out: those with most registers among them."""
    shapes = [shape_of(1, 4096), shape_of(1, 16384), shape_of(32, 128), shape_of(2, 512), shape_of(1, 896)]
    made = [_spec("RMS", shape, True) for shape in shapes]
    made += [_spec(kind, shape_of(3, 96), False) for kind in ("RMS", "LAYER", "L2")]
    return [*made, _spec("LAYER", shape_of(1, 16384), True)]
