"""Norm: one launch, in which some warps have a part of a row together and keep it in registers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ggufpy.backends.gpu.device import Work
from ggufpy.backends.gpu.elementwise import QUAD, end, places, spec
from ggufpy.backends.gpu.lowering import BLOCK, Lowering
from ggufpy.backends.gpu.source import KernelSpec
from ggufpy.errors import GGUFError
from ggufpy.models.op import Op, Weight
from ggufpy.models.ops import Norm
from ggufpy.support.records import dataclass

LOWERS = (Norm,)
WARP = 32
ALONE = 512  # columns that one warp has
EACH = 256  # columns of a warp where it is one of several: two quads a thread
MOST_WARPS, MOST_HELD = 32, 4  # of a block, and quads that a thread of so many has registers for


@dataclass(frozen=True)
class _Shape:
    """How a part is shared out: warps that have it, quads that each thread holds, and threads of a block."""

    warps: int
    held: int
    threads: int


def lower(to: Lowering, ops: Sequence[Op]) -> tuple[int, Iterator[Work]]:
    op = ops[0]
    assert isinstance(op, Norm)
    return 1, _works(to, op)


def _works(to: Lowering, op: Norm) -> Iterator[Work]:
    width = op.groups * op.part
    last = end(to, op.y, width)
    shape = _shape(op.groups, op.part + last - width)
    values = {
        **places(x=to.place(op.x), y=to.place(op.y)), **_vector(to, op, "weight", op.weight),
        **_vector(to, op, "bias", op.bias), "columns": op.part, "end": last, "parts": op.groups, "eps": op.eps,
    }  # fmt: skip
    blocks = -(-op.groups * shape.warps * WARP // shape.threads)
    yield to.launch(_spec(op.kind, shape, _aligned(op)), values, (blocks, to.shape.end, 1))


def _vector(to: Lowering, op: Norm, name: str, weight: Weight | None) -> dict[str, int]:
    """Where a weight or bias is, and how many floats it is from one part's to the next's."""
    if weight is None:
        return {name: 0, f"{name}_step": 0}
    if weight.shape not in ((op.part,), (op.groups, op.part)):
        raise ValueError(f"{op}: a {name} of {weight.shape}")
    step = -(-op.part // BLOCK) * BLOCK if len(weight.shape) == 2 else 0
    return {name: to.parts.vector(weight), f"{name}_step": step}


def _aligned(op: Norm) -> bool:
    """Whether each part begins at a quad."""
    return op.groups == 1 or op.part % QUAD == 0


def _shape(parts: int, columns: int) -> _Shape:
    """For so many parts, of which the last has so many columns with what is written behind it.

    It depends on nothing else, so that a row's sums are always taken in the same order.
    """
    warps = 1 if columns <= ALONE else min(MOST_WARPS, -(-columns // EACH))
    held = -(-columns // (QUAD * WARP * warps))
    if held > MOST_HELD:
        most = MOST_HELD * QUAD * WARP * MOST_WARPS
        raise GGUFError(f"the model has norms of {columns} columns; a GPU runs at most {most}: leave it on the CPU")
    return _Shape(warps, held, WARP * (warps if warps > 1 else min(parts, 4)))


def _spec(kind: str, shape: _Shape, aligned: bool) -> KernelSpec:
    """`kind` goes to `kernels/norm_rows.cu` as the name of a constant there."""
    more = (
        ("weight", "const float*"), ("weight_step", "int"), ("bias", "const float*"), ("bias_step", "int"),
        ("parts", "int"), ("eps", "float"),
    )  # fmt: skip
    defines = (
        ("KIND", kind.upper()), ("WARPS", shape.warps), ("HELD", shape.held), ("ALIGNED", int(aligned)),
    )  # fmt: skip
    made = spec("norm_rows", ["x"], "y", more)
    return KernelSpec(made.name, made.args, defines, shape.threads)


def examples() -> list[KernelSpec]:
    """One of each kind, and of each way to share parts out: those with most registers among them."""
    shapes = [_shape(1, 4096), _shape(1, 16384), _shape(32, 128), _shape(2, 512), _shape(1, 896)]
    odd = _shape(3, 96)
    return [
        *(_spec("rms", shape, True) for shape in shapes), *(_spec(kind, odd, False) for kind in ("rms", "layer", "l2")),
        _spec("layer", shapes[1], True),
    ]  # fmt: skip
