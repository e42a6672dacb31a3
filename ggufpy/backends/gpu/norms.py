"""How norms are shared out among threads, and what their kernels take (`kernels/norm.cuh`)."""

from __future__ import annotations

from ggufpy.errors import GGUFError
from ggufpy.models.op import Weight
from ggufpy.models.ops import Norm
from ggufpy.support.records import dataclass

from .elementwise import QUAD
from .lowering import BLOCK, Lowering

WARP = 32
ALONE = 512  # columns that one warp has
EACH = 256  # columns of a warp where it is one of several: two quads a thread
MOST_WARPS, MOST_HELD = 32, 4  # of a block, and quads that a thread of so many has registers for


@dataclass(frozen=True)
class Shape:
    """How a part is shared out: warps that have it, quads that each thread holds, and threads of a block."""

    warps: int
    held: int
    threads: int

    @property
    def roomy(self) -> bool:
        """Whether a thread has registers for more than a quad's columns: ROOMY in `kernels/norm.cuh`."""
        return self.warps * self.held <= 64

    @property
    def defines(self) -> tuple[tuple[str, str | int], ...]:
        return ("WARPS", self.warps), ("HELD", self.held)


def shape_of(parts: int, columns: int) -> Shape:
    """For so many parts, of which the last has so many columns with what is written behind it.

    It depends on nothing else, so that a row's sums are always taken in the same order. Raises GGUFError for parts that
    are too wide.
    """
    warps = 1 if columns <= ALONE else min(MOST_WARPS, -(-columns // EACH))
    held = -(-columns // (QUAD * WARP * warps))
    if held > MOST_HELD:
        most = MOST_HELD * QUAD * WARP * MOST_WARPS
        raise GGUFError(f"the model has norms of {columns} columns; a GPU runs at most {most}: leave it on the CPU")
    return Shape(warps, held, WARP * (warps if warps > 1 else min(parts, 4)))


def kind(op: Norm) -> str:
    """The name of a constant of `kernels/norm.cuh`."""
    return op.kind.upper()


def vector(to: Lowering, op: Norm, weight: Weight | None) -> tuple[int, int]:
    """Where a weight or bias is (0: there is none), and how many floats it is from one part's to the next's."""
    if weight is None:
        return 0, 0
    if weight.shape not in ((op.part,), (op.groups, op.part)):
        raise ValueError(f"{op}: {weight.name} is {weight.shape}")
    return to.parts.vector(weight), -(-op.part // BLOCK) * BLOCK if len(weight.shape) == 2 else 0
