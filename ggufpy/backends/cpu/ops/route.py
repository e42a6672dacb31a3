"""Route: one call, which also lists by expert the rows that chose it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ggufpy.backends.cpu.kernels.layout import BLOCK
from ggufpy.backends.cpu.kernels.route import MOST_GROUPS
from ggufpy.backends.cpu.lowering import Call, Lowering
from ggufpy.errors import GGUFError
from ggufpy.jit.spec import kernel
from ggufpy.models.op import Op
from ggufpy.models.ops import Route

LOWERS = (Route,)


def lower(to: Lowering, ops: Sequence[Op]) -> tuple[int, Iterator[Call]]:
    op = ops[0]
    assert isinstance(op, Route)
    return 1, _calls(to, op)


def _calls(to: Lowering, op: Route) -> Iterator[Call]:
    _check(op)
    w, lists, bias = to.work, to.work.lists[op.chosen], 0
    if to.room(op.x) < op.experts or to.stride(op.chosen) != to.stride(op.shares):
        raise ValueError(f"{op} does not fit its buffers")
    if op.bias is not None:
        bias = to.parts.vectors[op.bias.name].at(0, -(-op.experts // BLOCK) * BLOCK * 4)
    values = {
        "step_ptr": w.step.all_rows, "exact_ptr": w.step.exact_rows, "bulk_ptr": w.step.bulk_rows,
        "x_ptr": to.address(op.x), "bias_ptr": bias, "chosen_ptr": to.address(op.chosen),
        "shares_ptr": to.address(op.shares), "x_stride": to.stride(op.x), "y_stride": to.stride(op.chosen),
        "n_experts": op.experts, "n_chosen": op.count, "n_groups": op.groups, "n_groups_used": op.groups_used,
        "renormalises": int(op.renormalised), "scale": op.scale, **lists.addresses(op.experts, op.count, w.rows),
        **lists.made_at(w.rows),
    }  # fmt: skip
    yield to.call(op, kernel("route", kind=op.kind), values, [op.x], [op.chosen, op.shares, "e:" + op.chosen])


def _check(op: Route) -> None:
    """Raises GGUFError where there are fewer experts than are to be chosen, or groups that cannot be."""
    if op.groups > MOST_GROUPS:
        raise GGUFError(f"the model has {op.groups} groups of experts; ggufpy runs up to {MOST_GROUPS}")
    if not 1 <= op.groups_used <= op.groups or op.experts % op.groups:
        raise GGUFError(f"{op.groups_used} of {op.groups} groups of {op.experts} experts cannot be chosen")
    within = op.experts // op.groups * op.groups_used
    if not 1 <= op.count <= within:
        raise GGUFError(f"{op.count} experts cannot be chosen of {within}")
