"""Route: one call, which also lists by expert the rows that chose it."""

from __future__ import annotations

from collections.abc import Sequence

from ggufpy.backends.cpu.kernels.layout import BLOCK
from ggufpy.backends.cpu.kernels.route import MOST_GROUPS
from ggufpy.backends.cpu.lowering import Call, Lowering
from ggufpy.errors import GGUFError
from ggufpy.jit.spec import kernel
from ggufpy.models.plan import Op, Route

LOWERS = (Route,)


def lower(to: Lowering, ops: Sequence[Op]) -> tuple[int, list[Call]]:
    op, w = ops[0], to.work
    assert isinstance(op, Route)
    _check(op)
    lists = w.lists[op.chosen]
    if w.columns[op.x] < op.experts or w.stride(op.chosen) != w.stride(op.shares):
        raise ValueError(f"{op} does not fit its buffers")
    bias = 0
    if op.bias is not None:
        bias = to.parts.vectors[op.bias.name].at(0, -(-op.experts // BLOCK) * BLOCK * 4)
    values = {
        "step": w.step.all_rows, "exact": w.step.exact_rows, "bulk": w.step.bulk_rows, "x": w.address(op.x),
        "bias": bias, "chosen": w.address(op.chosen), "shares": w.address(op.shares), "x_stride": w.stride(op.x),
        "y_stride": w.stride(op.chosen), "experts": op.experts, "count": op.count, "groups": op.groups,
        "groups_used": op.groups_used, "renormalised": int(op.renormalised), "scale": op.scale,
        **lists.addresses(op.experts, op.count, w.rows), **lists.made_at(w.rows),
    }  # fmt: skip
    written = [op.chosen, op.shares, "e:" + op.chosen]
    return 1, [to.call(op, kernel("route", kind=op.kind), values, [op.x], written)]


def _check(op: Route) -> None:
    """Raises GGUFError where there are fewer experts than are to be chosen, or groups that cannot be."""
    if op.groups > MOST_GROUPS:
        raise GGUFError(f"the model has {op.groups} groups of experts; ggufpy runs up to {MOST_GROUPS}")
    if not 1 <= op.groups_used <= op.groups or op.experts % op.groups:
        raise GGUFError(f"{op.groups_used} of {op.groups} groups of {op.experts} experts cannot be chosen")
    within = op.experts // op.groups * op.groups_used
    if not 1 <= op.count <= within:
        raise GGUFError(f"{op.count} experts cannot be chosen of {within}")
