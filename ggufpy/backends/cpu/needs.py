"""What a plan takes at a level, known before anything is packed: kernels, and in which forms matrices read buffers.

The kernels are read from what the ops become (`ops/`): layers are lowered once on buffers of a few rows.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from ggufpy.backends.cpu.kernels.kv_types import PAGE
from ggufpy.backends.cpu.kernels.layout import BLOCK
from ggufpy.backends.cpu.kernels.matmul_tiles import bulk_kernel
from ggufpy.backends.cpu.kv import CacheMemory, CacheShape
from ggufpy.errors import GGUFError
from ggufpy.jit.spec import Kernel
from ggufpy.models.op import Op, Weight
from ggufpy.models.ops import Attend, ExpertMatMul, Heads, MatMul, Route, StoreKv
from ggufpy.models.plan import Plan, kinds_of_layers, widths
from ggufpy.models.scaling import PositionScale, ScaleByPosition
from ggufpy.models.source import SourceTensor
from ggufpy.quants.base import IntPanel, Panel
from ggufpy.simd.isa import Level, has_tiles

from .lowering import NO_SINKS, Call, Lowering, Resources, Sinks, StepKind
from .memory import Region
from .ops.attend import ropes, shift_calls
from .weights import Matrix, vector_bytes
from .workspace import GROUPS, MOST, Forms, Workspace

Panels = Mapping[str, Panel]
Bulk = Mapping[str, Kernel]


def geometries(plan: Plan) -> list[Heads]:
    """Those of all keys and values that are kept. Raises GGUFError for attention to what is not kept, or not so."""
    stored = {op.layer: op.heads for op in plan.body if isinstance(op, StoreKv)}
    for op in plan.body:
        if isinstance(op, Attend) and op.layer not in stored:
            raise GGUFError(
                f"a layer attends to the keys of layer {op.layer}, which nobody stores here: layers that share keys "
                "must be on one device"
            )
        if isinstance(op, Attend) and replace(op.heads, queries=0) != replace(stored[op.layer], queries=0):
            raise GGUFError(f"a layer attends to the keys of layer {op.layer}, whose heads are others")
    return list(dict.fromkeys(stored.values()))


def products(ops: Sequence[Op]) -> list[MatMul | ExpertMatMul]:
    """The ops that multiply by a matrix."""
    return [op for op in ops if isinstance(op, MatMul | ExpertMatMul)]


def matrix_names(ops: Sequence[Op]) -> list[str]:
    """Names of the weights that are multiplied by, in order of use."""
    return list(dict.fromkeys(op.weight.name for op in products(ops)))


def flops_of(op: MatMul | ExpertMatMul) -> float:
    """Floating-point operations of a product for one row, of which an expert's is done for those that are chosen."""
    rows, columns = op.weight.shape[-2:]
    return 2.0 * rows * columns * (op.count if isinstance(op, ExpertMatMul) else 1)


def vectors(plan: Plan) -> list[Weight]:
    """Weights that ops add or multiply by number for number: (n,), or (experts, n)."""
    ops = (*plan.body, *plan.head)
    matrices = set(matrix_names(ops))
    return list(dict.fromkeys(weight for op in ops for weight in op.weights if weight.name not in matrices))


def position_scales(plan: Plan) -> list[PositionScale]:
    """Those that rows are multiplied by."""
    return list(dict.fromkeys(op.by for op in plan.body if isinstance(op, ScaleByPosition)))


def bulk_kernels(plan: Plan, panels: Panels, level: Level) -> dict[str, Kernel]:
    """Kernels for bulk rows, of matrices that have one at a level. Those of experts have none."""
    of_all = {op.weight.name for op in (*plan.body, *plan.head) if isinstance(op, MatMul)}
    codes = {name: bulk_kernel(panel, level) for name, panel in panels.items() if name in of_all}
    return {name: code for name, code in codes.items() if code is not None}


def tiled_attention(bulk: Bulk, level: Level) -> bool:
    """Whether bulk rows attend by tiles too."""
    return bool(bulk) and has_tiles(level)


def forms_of(ops: Sequence[Op], panels: Panels, bulk: Bulk) -> Forms:
    """How matrices read the buffers of these ops."""
    multiplied = products(ops)
    whole = [op for op in multiplied if isinstance(panels[op.weight.name], IntPanel)]
    tiled = [op for op in multiplied if op.weight.name in bulk]
    exact = [op for op in whole if op.weight.name not in bulk]
    read, in_bulk, tiles = (frozenset(op.x for op in some) for some in (whole, exact, tiled))
    return Forms(read, in_bulk, tiles, _parts_of(whole), _chosen_of(ops))


def _parts_of(ops: Sequence[MatMul | ExpertMatMul]) -> dict[str, int]:
    """In how many parts each buffer is read. Raises ValueError where products do not agree."""
    by_buffer: dict[str, int] = {}
    for op in ops:
        parts = op.count if isinstance(op, ExpertMatMul) and op.own else 1
        if by_buffer.setdefault(op.x, parts) != parts:
            raise ValueError(f"buffer {op.x} is read in {by_buffer[op.x]} parts and in {parts}")
    return by_buffer


def _chosen_of(ops: Sequence[Op]) -> dict[str, tuple[int, int]]:
    """Buffers of experts' numbers: of how many, and how many. Raises ValueError where routes do not agree."""
    by_buffer: dict[str, tuple[int, int]] = {}
    for op in ops:
        if isinstance(op, Route) and by_buffer.setdefault(op.chosen, (op.experts, op.count)) != (op.experts, op.count):
            raise ValueError(f"buffer {op.chosen} has experts of {by_buffer[op.chosen][0]} and of {op.experts}")
    return by_buffer


def kinds(bulk: bool) -> list[StepKind]:
    """Every kind of step."""
    exact = [StepKind(group, False) for group in GROUPS]
    return [*exact, *(StepKind(group, True) for group in (0, *GROUPS))] if bulk else exact


def body_widths(plan: Plan) -> dict[str, int]:
    """Of the buffers of embeddings and layers."""
    return widths((plan.embed, *plan.body))


def head_widths(plan: Plan) -> dict[str, int]:
    """Of the buffers of the head, whose "x" is a copy of the body's."""
    return {"x": plan.width, **widths(plan.head)}


def kernels_of(plan: Plan, panels: Panels, shape: CacheShape, level: Level, sinks: Sinks = NO_SINKS) -> list[Kernel]:
    """Every kernel that tapes of this plan call, whatever the kind of step."""
    bulk = bulk_kernels(plan, panels, level)
    parts = _small_parts(plan, panels, bulk, shape, level)
    groups = len(parts.cache.groups)
    body = Workspace("body", body_widths(plan), forms_of(plan.body, panels, bulk), MOST, plan.adapters, groups)
    head = Workspace("head", head_widths(plan), forms_of(plan.head, panels, bulk), MOST, plan.adapters)
    layers = kinds_of_layers(plan.layers, lambda weight: (weight.shape, panels.get(weight.name)))
    kernels: dict[Kernel, None] = {}
    for kind in kinds(bool(bulk)):
        for work, ops in [*((body, ops) for ops in layers), (head, plan.head)]:
            calls = Lowering(parts, work, kind, sinks).calls(ops)
            kernels.update((call.kernel, None) for call in calls if isinstance(call, Call))
    for ops in layers:
        for group in range(groups):
            moves = shift_calls(Lowering(parts, body, StepKind(MOST, False)), ops, body.step, group)
            kernels.update((call.kernel, None) for call in moves)
    return list(kernels)


def _small_parts(plan: Plan, panels: Panels, bulk: Bulk, shape: CacheShape, level: Level) -> Resources:
    """Resources whose addresses lead to nothing of use."""
    lanes, nothing = level.lanes, Region(0, "no weights")
    matrices = {
        name: Matrix(panel, rows, columns, -(-rows // lanes), -(-columns // BLOCK), 1.0, nothing, math.prod(experts))
        for name, panel in panels.items()
        for *experts, rows, columns in [plan.weights[name].shape]
    }
    longest = Region(max((vector_bytes(w.shape) for w in vectors(plan)), default=0), "no vector", sparse=True)
    cache = CacheMemory(plan, CacheShape(PAGE, 1, shape.key_type, shape.value_type), 1, lanes, 1)  # no windows
    angles = {rope: Region(4 * MOST * rope.dimensions, "no angles") for rope in ropes(plan.body)}
    tiled = tiled_attention(bulk, level)
    factors = {by: Region(4 * MOST, "no factors") for by in position_scales(plan)}
    return Resources(
        matrices, {w.name: longest for w in vectors(plan)}, cache, angles, factors, 1, bulk, tiled, nothing
    )


def prompt_flops(plan: Plan, tokens: int) -> float:
    """Floating-point operations of the matrix products for a text, and for the logits of its last token."""
    body, head = (sum(map(flops_of, products(ops))) for ops in (plan.body, plan.head))
    return body * tokens + head


def main_type(tensors: Iterable[SourceTensor]) -> str:
    """The type that most of these tensors' bytes are in."""
    sizes: Counter[str] = Counter()
    for tensor in tensors:
        sizes[tensor.type] += tensor.nbytes
    return sizes.most_common(1)[0][0]
