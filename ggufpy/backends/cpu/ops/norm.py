"""Norm: the rms of a whole row is one call, which makes 8-bit rows too where a matrix reads them; all others another.

Parts of a row, and what is no rms with a weight, go through `norm_groups`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ggufpy.backends.cpu.lowering import Call, Lowering
from ggufpy.backends.cpu.weights import vector_bytes
from ggufpy.jit.spec import Kernel, kernel
from ggufpy.models.op import Op, Weight
from ggufpy.models.ops import Norm

LOWERS = (Norm,)


def lower(to: Lowering, ops: Sequence[Op]) -> tuple[int, Iterator[Call]]:
    op = ops[0]
    assert isinstance(op, Norm)
    if op.weight is not None and op.kind == "rms" and op.bias is None and op.groups == len(op.weight.shape) == 1:
        return 1, _row(to, op, op.weight)
    return 1, _groups(to, op)


def _row(to: Lowering, op: Norm, weight: Weight) -> Iterator[Call]:
    blocks, whole = to.blocks(op.y), to.work.parts(op.y) == 1
    values = {
        "step_ptr": to.work.step.all_rows, "x_ptr": to.address(op.x),
        "weight_ptr": to.parts.vectors[weight.name].at(0, 128 * blocks), "y_ptr": to.address(op.y),
        "q_ptr": to.codes(op.y) if whole else 0, "n_blocks": blocks, "n_columns": op.part, "x_stride": to.stride(op.x),
        "y_stride": to.stride(op.y), "q_stride": to.work.codes_stride(op.y), "eps": op.eps,
    }  # fmt: skip
    yield to.call(op, kernel("norm"), values, [op.x], to.forms(op.y) if whole else [op.y])


def _groups(to: Lowering, op: Norm) -> Iterator[Call]:
    given = [weight for weight in (op.weight, op.bias) if weight is not None]
    if any(weight.shape not in ((op.part,), (op.groups, op.part)) for weight in given):
        raise ValueError(f"{op}: weights of {[weight.shape for weight in given]}")
    vectors = [0 if w is None else to.parts.vectors[w.name].at(0, vector_bytes(w.shape)) for w in (op.weight, op.bias)]
    values = {
        "step_ptr": to.work.step.all_rows, "x_ptr": to.address(op.x), "weight_ptr": vectors[0],
        "y_ptr": to.address(op.y), "n_groups": op.groups, "n_columns": op.part, "x_stride": to.stride(op.x),
        "y_stride": to.stride(op.y), "eps": op.eps, "bias_ptr": vectors[1],
    }  # fmt: skip
    yield to.call(op, _groups_kernel(op), values, [op.x], [op.y])


def _groups_kernel(op: Norm) -> Kernel:
    """Raises ValueError where parts have a weight of their own each, but no bias of their own, or the other way."""
    dimensions = {len(weight.shape) for weight in (op.weight, op.bias) if weight is not None}
    if len(dimensions) > 1:
        raise ValueError(f"{op}: of weight and bias one is the same for all parts, and one is not")
    own = dimensions == {2}
    if op.kind == "rms" and op.weight is not None and op.bias is None and not own:
        return kernel("norm_groups")
    found = {"weighted": int(op.weight is not None), "biased": int(op.bias is not None)}
    return kernel("norm_groups", kind=op.kind, **found, **({"own": 1} if own else {}))
