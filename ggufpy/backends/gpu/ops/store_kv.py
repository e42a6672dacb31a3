"""Keys and values go to their pages; rotations just before that are done in the same launch. And how they move down.

Rows of a step are stored before any of them attends, as launches are in order.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ggufpy.backends.cpu.kernels.kv_types import NAMES
from ggufpy.backends.gpu.device import Launch
from ggufpy.backends.gpu.kv import LayerCache
from ggufpy.backends.gpu.lowering import Lowering, Parts
from ggufpy.backends.gpu.rotation import angle_bytes, distance_work
from ggufpy.backends.gpu.source import KernelSpec
from ggufpy.models.op import Op
from ggufpy.models.ops import Heads, Rope, Rotate, StoreKv
from ggufpy.support.records import dataclass

LOWERS = (StoreKv,)
WARP = 32
PLACES = (
    ("keys", "char*"), ("values", "char*"), ("key_page", "long long"), ("value_page", "long long"),
    ("key_head", "int"), ("value_head", "int"),
)  # fmt: skip
STORE_ARGS = (
    ("q", "float*"), ("k", "float*"), ("v", "const float*"), ("angles", "const float*"), ("positions", "const int*"),
    ("tables", "const int*"), ("pages", "const int*"), *PLACES, ("q_stride", "int"), ("k_stride", "int"),
    ("v_stride", "int"), ("queries", "int"), ("shared", "int"),
)  # fmt: skip
SHIFT_ARGS = (
    ("angles", "const float*"), ("source", "const int*"), ("target", "const int*"), *PLACES,
    ("first", "int"), ("last", "int"), ("drop", "int"),
)  # fmt: skip


@dataclass(frozen=True)
class Stored:
    """A store with the rotations just before it that go into its launch: of keys by `rope`, and of `queries`, which
    turn by the same. It is `count` ops."""

    store: StoreKv
    rope: Rope | None
    queries: Rotate | None
    count: int


@dataclass(frozen=True)
class Shift:
    """Positions of a group of layers that move down by `drop`. `source` and `target` are addresses of page tables on
    the device (int32), to read and to write."""

    group: int
    source: int
    target: int
    positions: range
    drop: int


def lower(to: Lowering, ops: Sequence[Op]) -> tuple[int, Iterator[Launch]]:
    found = stored_with(ops)
    if found is None:
        raise ValueError(f"{ops[0]} does not begin with a store")
    return found.count, works(to, found)


def stored_with(ops: Sequence[Op]) -> Stored | None:
    """The store that some ops begin with, behind at most a rotation of its keys and one of queries; None where they
    begin otherwise, or where the rotations are not of one kind."""
    at = next((i for i, op in enumerate(ops) if not isinstance(op, Rotate)), 0)
    store = ops[at]
    turned = {op.x: op for op in ops[:at] if isinstance(op, Rotate)}
    if not isinstance(store, StoreKv) or len(turned) != at:
        return None
    if not turned:
        return Stored(store, None, None, 1)
    keys = turned.pop(store.k, None)
    queries = next(iter(turned.values()), None)
    h = store.heads
    if len(turned) > 1 or keys is None or (keys.heads, keys.length) != (h.shared, h.key_length):
        return None
    if queries is not None and (queries.rope, queries.length) != (keys.rope, keys.length):
        return None
    return Stored(store, keys.rope, queries, at + 1)


def works(to: Lowering, found: Stored) -> Iterator[Launch]:
    """Stores the rows of a step, whose keys and queries are turned before."""
    store, queries = found.store, found.queries
    cache, step = to.parts.cache(store.layer), to.parts.step
    k, v = to.place(store.k), to.place(store.v)
    q = k if queries is None else to.place(queries.x)
    count = 0 if queries is None else queries.heads
    values = {
        "q": q.address, "k": k.address, "v": v.address, "positions": step.positions, "pages": step.pages,
        "angles": to.parts.angles(found.rope) if found.rope is not None and found.rope.dimensions else 0,
        "tables": step.tables + 4 * step.table_stride * cache.group, **_places(cache), "q_stride": q.stride,
        "k_stride": k.stride, "v_stride": v.stride, "queries": count, "shared": cache.heads.shared,
    }  # fmt: skip
    code = _store_spec(cache, found.rope)
    warps = count + 2 * cache.heads.shared
    yield to.launch(code, values, (to.shape.end, -(-warps // (code.threads // WARP)), 1))


def shift_works(parts: Parts, ops: Sequence[Op], shift: Shift) -> list[Launch]:
    """Moves what all layers of a group have at some positions, of a plan's body `ops`, one layer after the other."""
    turned: list[Launch] = []
    moved: list[Launch] = []
    angles: dict[Rope, int] = {}
    for store, rope in _stores(ops):
        cache = parts.cache(store.layer)
        if cache.group != shift.group:
            continue
        if rope is not None and rope not in angles:
            angles[rope] = parts.room(f"angles of a shift, {len(angles)}", angle_bytes(rope, 1))
            turned.append(distance_work(rope, -shift.drop, angles[rope]))
        values = {
            "angles": 0 if rope is None else angles[rope], "source": shift.source, "target": shift.target,
            **_places(cache), "first": shift.positions.start, "last": shift.positions.stop, "drop": shift.drop,
        }  # fmt: skip
        code = _shift_spec(cache, rope)
        moved.append(Launch(code, code.record(values), (cache.heads.shared, 2, 1), code.threads))
    return [*turned, *moved]


def _stores(ops: Sequence[Op]) -> Iterator[tuple[StoreKv, Rope | None]]:
    """What is stored, and by what its keys have been turned."""
    turned: dict[str, Rope] = {}
    for op in ops:
        if isinstance(op, StoreKv):
            yield op, turned.get(op.k)
        for name in op.writes:
            if isinstance(op, Rotate) and op.rope.dimensions:
                turned[name] = op.rope
            else:
                turned.pop(name, None)


def turning(rope: Rope | None) -> tuple[tuple[str, int], ...]:
    """Constants of kernels that turn heads (`kernels/rotate.cuh`)."""
    return (("ROTATED", 0), ("NEOX", 0)) if rope is None else (("ROTATED", rope.dimensions), ("NEOX", int(rope.neox)))


def _places(cache: LayerCache) -> dict[str, int]:
    return {
        "keys": cache.keys, "values": cache.values, "key_page": cache.key_page, "value_page": cache.value_page,
        "key_head": cache.key_head, "value_head": cache.value_head,
    }  # fmt: skip


def _store_spec(cache: LayerCache, rope: Rope | None) -> KernelSpec:
    return KernelSpec("store_kv", STORE_ARGS, (*cache.constants, *turning(rope)), threads=128)


def _shift_spec(cache: LayerCache, rope: Rope | None) -> KernelSpec:
    return KernelSpec("shift_keys", SHIFT_ARGS, (*cache.constants, *turning(rope)), threads=256)


def examples() -> list[KernelSpec]:
    """One of each variant."""
    ropes = (Rope(128, 10_000.0), Rope(64, 10_000.0, neox=True), None)
    caches = [
        LayerCache(0, 0, 0, 0, 0, 0, key_type, value_type, Heads(32, 8, 128, 128), 0)
        for key_type, value_type in zip(NAMES, (*NAMES[1:], NAMES[0]), strict=True)
    ]
    return [make(cache, rope) for make in (_store_spec, _shift_spec) for cache in caches for rope in ropes]
