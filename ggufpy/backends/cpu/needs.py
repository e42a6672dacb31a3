"""What a plan takes at a level, known before anything is packed: kernels, and in which forms matrices read buffers.

The kernels are read from what the ops become (`ops/`): layers are lowered once on buffers of a few rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ggufpy.backends.cpu.kernels.kv_types import CHUNK
from ggufpy.backends.cpu.kernels.layout import BLOCK
from ggufpy.backends.cpu.kernels.matmul_tiles import bulk_kernel
from ggufpy.backends.cpu.kv import CacheMemory, CacheShape
from ggufpy.jit.spec import Kernel
from ggufpy.models.plan import Heads, MatMul, Op, Plan, StoreKv, kinds_of_layers, widths
from ggufpy.quants.base import IntPanel, Panel
from ggufpy.simd.isa import Level, has_tiles

from .lowering import Kind, Lowering, Parts
from .memory import Region
from .ops.attend import blocks, shift_calls
from .weights import Matrix
from .workspace import GROUPS, MOST, Forms, Workspace

Panels = Mapping[str, Panel]
Bulk = Mapping[str, Kernel]


def geometries(plan: Plan) -> list[Heads]:
    """Those of all keys and values that are kept."""
    return list(dict.fromkeys(op.heads for op in plan.body if isinstance(op, StoreKv)))


def bulk_kernels(panels: Panels, level: Level) -> dict[str, Kernel]:
    """Kernels for bulk rows, of matrices that have one at a level."""
    found = {name: bulk_kernel(panel, level) for name, panel in panels.items()}
    return {name: code for name, code in found.items() if code is not None}


def tiled_attention(bulk: Bulk, level: Level) -> bool:
    """Whether bulk rows attend by tiles too."""
    return bool(bulk) and has_tiles(level)


def forms_of(ops: Sequence[Op], panels: Panels, bulk: Bulk) -> Forms:
    """How matrices read the buffers of these ops."""
    products = [op for op in ops if isinstance(op, MatMul)]
    whole = [op for op in products if isinstance(panels[op.weight.name], IntPanel)]
    tiled = [op for op in products if op.weight.name in bulk]
    exact = [op for op in whole if op.weight.name not in bulk]
    return Forms(*(frozenset(op.x for op in some) for some in (whole, exact, tiled)))


def kinds(bulk: bool) -> list[Kind]:
    """Every kind of step."""
    found = [Kind(group, False) for group in GROUPS]
    return [*found, *(Kind(group, True) for group in (0, *GROUPS))] if bulk else found


def body_widths(plan: Plan) -> dict[str, int]:
    """Of the buffers of embeddings and layers."""
    return widths((plan.embed, *plan.body))


def head_widths(plan: Plan) -> dict[str, int]:
    """Of the buffers of the head, whose "x" is a copy of the body's."""
    return {"x": plan.width, **widths(plan.head)}


def kernels_of(plan: Plan, panels: Panels, shape: CacheShape, level: Level) -> list[Kernel]:
    """Every kernel that tapes of this plan call, whatever the kind of step."""
    bulk = bulk_kernels(panels, level)
    parts = _small_parts(plan, panels, bulk, shape, level)
    body = Workspace("body", body_widths(plan), forms_of(plan.body, panels, bulk), MOST)
    head = Workspace("head", head_widths(plan), forms_of(plan.head, panels, bulk), MOST)
    layers = kinds_of_layers(plan.layers, lambda weight: (weight.shape, panels.get(weight.name)))
    found: dict[Kernel, None] = {}
    for kind in kinds(bool(bulk)):
        for work, ops in [*((body, ops) for ops in layers), (head, plan.head)]:
            found.update((call.kernel, None) for call in Lowering(parts, work, kind).calls(ops))
    for ops in layers:
        calls = shift_calls(Lowering(parts, body, Kind(MOST, False)), ops, body.step, 0)
        found.update((call.kernel, None) for call in calls)
    return list(found)


def _small_parts(plan: Plan, panels: Panels, bulk: Bulk, shape: CacheShape, level: Level) -> Parts:
    """Parts whose addresses lead to nothing of use."""
    lanes, nothing = level.lanes, Region(0, "no weights")
    matrices = {
        name: Matrix(panel, rows, columns, -(-rows // lanes), -(-columns // BLOCK), 1.0, nothing)
        for name, panel in panels.items()
        for rows, columns in [plan.weights[name].shape]
    }
    vectors = [weight for weight in plan.weights.values() if len(weight.shape) == 1]
    longest = Region(max((-(-w.shape[0] // BLOCK) * BLOCK * 4 for w in vectors), default=0), "no vector", sparse=True)
    cache = CacheMemory(plan, CacheShape(CHUNK, 1, shape.key_type, shape.value_type), 1, lanes, 1)  # one group
    ropes = {found.rope for found in blocks(plan.body) if found.rope is not None}
    angles = {rope: Region(4 * MOST * rope.dimensions, "no angles") for rope in ropes}
    tiled = tiled_attention(bulk, level)
    return Parts(matrices, {w.name: longest for w in vectors}, cache, angles, 1, bulk, tiled, nothing)
