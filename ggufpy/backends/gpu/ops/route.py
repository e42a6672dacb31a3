"""Route: one launch, a warp a row."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ggufpy.backends.gpu.device import Work
from ggufpy.backends.gpu.lowering import Lowering
from ggufpy.backends.gpu.source import KernelSpec
from ggufpy.errors import GGUFError
from ggufpy.models.op import Op, Weight
from ggufpy.models.ops import Route

LOWERS = (Route,)

ROWS = 4  # a block, each a warp's
MOST_GROUPS = 64  # two a lane
MOST_EXPERTS = 2048  # so many scores of ROWS rows fit a block's shared memory at every level
_KINDS = {"softmax": 0, "sigmoid": 1, "softmax_of_chosen": 2}


def lower(to: Lowering, ops: Sequence[Op]) -> tuple[int, Iterator[Work]]:
    op = ops[0]
    assert isinstance(op, Route)
    return 1, _works(to, op)


def _works(to: Lowering, op: Route) -> Iterator[Work]:
    _check(op)
    x, chosen, shares = to.place(op.x), to.place(op.chosen), to.place(op.shares)
    if x.stride < op.experts or chosen.stride != shares.stride or chosen.stride < op.count:
        raise ValueError(f"{op} does not fit its buffers")
    values = {
        "x": x.address, "x_stride": x.stride, "bias": 0 if op.bias is None else to.parts.vector(op.bias),
        "chosen": chosen.address, "shares": shares.address, "y_stride": chosen.stride, "rows": to.shape.end,
        "count": op.count, "groups": op.groups, "groups_used": op.groups_used, "scale": op.scale,
    }  # fmt: skip
    yield to.launch(_spec(op), values, (-(-to.shape.end // ROWS), 1, 1))


def _check(op: Route) -> None:
    """Raises GGUFError where there are fewer experts than are to be chosen, or groups that cannot be."""
    if op.experts > MOST_EXPERTS:
        raise GGUFError(f"the model has {op.experts} experts; on a GPU ggufpy runs up to {MOST_EXPERTS}: use -ngl 0")
    if op.groups > MOST_GROUPS:
        raise GGUFError(f"the model has {op.groups} groups of experts; ggufpy runs up to {MOST_GROUPS}")
    if not 1 <= op.groups_used <= op.groups or op.experts % op.groups:
        raise GGUFError(f"{op.groups_used} of {op.groups} groups of {op.experts} experts cannot be chosen")
    within = op.experts // op.groups * op.groups_used
    if not 1 <= op.count <= within:
        raise GGUFError(f"{op.count} experts cannot be chosen of {within}")


def _spec(op: Route) -> KernelSpec:
    args = (
        ("x", "const float*"), ("bias", "const float*"), ("chosen", "float*"), ("shares", "float*"),
        ("x_stride", "int"), ("y_stride", "int"), ("rows", "int"), ("count", "int"), ("groups", "int"),
        ("groups_used", "int"), ("scale", "float"),
    )  # fmt: skip
    defines = (("KIND", _KINDS[op.kind]), ("EXPERTS", op.experts), ("RENORMALISED", int(op.renormalised)))
    return KernelSpec("route", args, defines, ROWS * 32)


def examples() -> list[KernelSpec]:
    """One of each variant, and the largest."""
    bias = Weight("bias", (MOST_EXPERTS,))
    most = Route("x", MOST_EXPERTS, "c", "s", 8, "softmax", bias, 64, 4, True)
    few = [Route("x", 64, "c", "s", 8, "softmax"), Route("x", 64, "c", "s", 8, "sigmoid", bias, 8, 4)]
    of_chosen = Route("x", 32, "c", "s", 4, "softmax_of_chosen", renormalised=True)
    return [_spec(op) for op in (*few, of_chosen, most)]
