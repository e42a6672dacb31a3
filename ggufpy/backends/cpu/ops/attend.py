"""Attention: queries and keys are rotated and keys and values stored in one call, then rows attend to the cache.

Rotate and StoreKv are taken together with the Attend that follows them. One without a StoreKv attends to what another
layer has stored. A Rotate that something else follows, as norms of what has been turned, is a call by itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ggufpy.backends.cpu.kv import CacheShape
from ggufpy.backends.cpu.lowering import Call, Lowering
from ggufpy.backends.cpu.step import Step
from ggufpy.jit.spec import kernel
from ggufpy.models.op import Op
from ggufpy.models.ops import Attend, Heads, Rope, Rotate, StoreKv
from ggufpy.support.records import dataclass

LOWERS = (Rotate, StoreKv, Attend)


@dataclass(frozen=True)
class Block:
    """The ops of one attention: by what queries and keys turn, what is stored if anything is, and what attends."""

    rope: Rope | None
    store: StoreKv | None
    attend: Attend


def block(ops: Sequence[Op]) -> tuple[int, Block]:
    """The attention that some ops begin with, and how many they are. Raises ValueError for what cannot be together."""
    turned: dict[str, Rope] = {}
    stored: StoreKv | None = None
    for i, op in enumerate(ops):
        if isinstance(op, Rotate) and stored is None:
            turned[op.x] = op.rope
        elif isinstance(op, StoreKv) and stored is None:
            stored = op
        elif isinstance(op, Attend) and (stored is None or stored.layer == op.layer):
            ropes = [turned.pop(name, None) for name in (op.q, *(() if stored is None else (stored.k,)))]
            if turned or ropes[0] != ropes[-1]:
                break
            return i + 1, Block(ropes[0], stored, op)
        else:
            break
    raise ValueError(f"{ops[0]} does not lead to an attention that can be run")


def begins(ops: Sequence[Op]) -> bool:
    """Whether some ops begin with an attention."""
    first = next((op for op in ops if not isinstance(op, Rotate)), None)
    return isinstance(first, StoreKv | Attend)


def ropes(ops: Sequence[Op]) -> list[Rope]:
    """By what heads are turned among some ops."""
    return list(dict.fromkeys(op.rope for op in ops if isinstance(op, Rotate)))


def lower(to: Lowering, ops: Sequence[Op]) -> tuple[int, Iterator[Call]]:
    if isinstance(ops[0], Rotate) and not begins(ops):
        return 1, _rotation(to, ops[0])
    count, attention = block(ops)
    # Now: what attends may give a name that it reads anew.
    stored = rope_store(to, attention, attention.attend.heads.queries)
    return count, _calls(to, attention.attend, stored)


def _rotation(to: Lowering, op: Rotate) -> Iterator[Call]:
    values = {
        "step_ptr": to.work.step.all_rows, "x_ptr": to.address(op.x), "x_stride": to.stride(op.x), "n_heads": op.heads,
        "n_columns": op.length, "table_ptr": to.parts.angles[op.rope].at(0, to.work.rows * op.rope.dimensions * 4),
        "n_rotated": op.rope.dimensions, "is_neox": int(op.rope.neox),
    }  # fmt: skip
    yield to.call(op, kernel("rotate"), values, [op.x], [op.x])


def _calls(to: Lowering, op: Attend, stored: Call) -> Iterator[Call]:
    heads = op.heads
    spans = to.work.step.spans_address(to.parts.cache.group_of(op.layer))
    yield stored
    tiled = to.kind.bulk and to.parts.tiled_attention
    if tiled:
        yield _attention(to, op, "attention_tiles")
    if to.kind.group or not tiled:
        yield _attention(to, op, "attention")
        values = {
            "spans_ptr": spans, "y_ptr": to.address(op.y), "y_stride": to.stride(op.y), "n_kv": heads.shared,
            "window": op.window, "sinks_ptr": _sinks(to, op),
        }  # fmt: skip
        sinks = {} if op.sinks is None else {"sinks": 1}
        code = kernel("attention_join", value_length=heads.value_length, group=heads.group, **sinks)
        yield to.call(op, code, values, ["parts"], [op.y])


def rope_store(to: Lowering, attention: Block, queries: int) -> Call:
    """Rotates `queries` heads of q (0: only keys) and k, and stores k and v, if there are any."""
    w, store, attend = to.work, attention.store, attention.attend
    cache, group = to.parts.cache.of(attend.layer), to.parts.cache.group_of(attend.layer)
    angles, rotated, neox = 0, 0, 0
    if attention.rope is not None:
        rotated, neox = attention.rope.dimensions, int(attention.rope.neox)
        angles = to.parts.angles[attention.rope].at(0, w.rows * rotated * 4)
    k, v = (attend.q, attend.q) if store is None else (store.k, store.v)
    values = {
        "step_ptr": w.step.all_rows, "places_ptr": w.step.places_address(group), "q_ptr": to.address(attend.q),
        "k_ptr": to.address(k), "v_ptr": to.address(v), "q_stride": to.stride(attend.q), "k_stride": to.stride(k),
        "v_stride": to.stride(v), "table_ptr": angles, "n_rotated": rotated, "is_neox": neox, "n_head": queries,
        "n_kv": 0 if store is None else attend.heads.shared, "keys_ptr": cache.keys(attend.layer),
        "values_ptr": cache.values(attend.layer), "key_head_bytes": cache.key_head_bytes,
        "value_head_bytes": cache.value_head_bytes, "scale": attend.scale,
    }  # fmt: skip
    code = kernel("rope_store", **cache_constants(attend.heads, cache.shape))
    touched = [attend.q] if store is None else [attend.q, k, v]
    return to.call(store or attend, code, values, touched, [*touched, *([] if store is None else [f"kv{store.layer}"])])


def kv_read(to: Lowering, store: StoreKv, source: Step) -> Call:
    """Reads what `source` points to back into the rows of k and v."""
    w, cache, group = to.work, to.parts.cache.of(store.layer), to.parts.cache.group_of(store.layer)
    values = {
        "step_ptr": w.step.all_rows, "places_ptr": source.places_address(group), "k_ptr": to.address(store.k),
        "v_ptr": to.address(store.v), "k_stride": to.stride(store.k), "v_stride": to.stride(store.v),
        "n_kv": store.heads.shared, "keys_ptr": cache.keys(store.layer), "values_ptr": cache.values(store.layer),
        "key_head_bytes": cache.key_head_bytes, "value_head_bytes": cache.value_head_bytes,
    }  # fmt: skip
    code = kernel("kv_read", **cache_constants(store.heads, cache.shape))
    return to.call(store, code, values, [f"kv{store.layer}"], [store.k, store.v])


def shift_calls(to: Lowering, ops: Sequence[Op], source: Step, group: int) -> list[Call]:
    """For each layer's store of a group: reads positions, turns the keys and stores them where the step says."""
    calls: list[Call] = []
    at = 0
    while at < len(ops):
        is_block = isinstance(ops[at], LOWERS) and begins(ops[at:])
        count, attention = block(ops[at:]) if is_block else (1, None)
        store = None if attention is None else attention.store
        if attention is not None and store is not None and to.parts.cache.group_of(store.layer) == group:
            calls += [kv_read(to, store, source), rope_store(to, attention, 0)]
        for op in ops[at : at + count]:
            to.follow(op)
        at += count
    return calls


def _attention(to: Lowering, op: Attend, source: str) -> Call:
    """Of exact rows, or of bulk rows where these have tiles."""
    room, heads = to.parts.cache, op.heads
    cache = room.of(op.layer)
    special = {"softcap": op.softcap > 0, "sinks": op.sinks is not None, "everything": not op.causal}
    constants = {name: 1 for name, wanted in special.items() if wanted}
    code = kernel(source, group=heads.group, **cache_constants(heads, cache.shape), **constants)
    values = {
        "spans_ptr": to.work.step.spans_address(room.group_of(op.layer)), "q_ptr": to.address(op.q),
        "keys_ptr": cache.keys(op.layer), "values_ptr": cache.values(op.layer),
        "scratch_ptr": room.scratch.at(0, to.parts.threads * room.scratch_bytes), "y_ptr": to.address(op.y),
        "q_stride": to.stride(op.q), "y_stride": to.stride(op.y), "n_kv": heads.shared,
        "key_head_bytes": cache.key_head_bytes, "value_head_bytes": cache.value_head_bytes,
        "window": op.window, "scratch_bytes": room.scratch_bytes, "sinks_ptr": _sinks(to, op), "cap": op.softcap,
    }  # fmt: skip
    return to.call(op, code, values, [op.q, f"kv{op.layer}"], ["parts", op.y])


def _sinks(to: Lowering, op: Attend) -> int:
    """The address of a score for each query head, 0 if there are none."""
    return 0 if op.sinks is None else to.parts.vectors[op.sinks.name].at(0, 4 * op.heads.queries)


def cache_constants(heads: Heads, shape: CacheShape) -> dict[str, int | str]:
    """Constants of the kernels that read or write the cache."""
    return {
        "key_length": heads.key_length, "value_length": heads.value_length, "key_type": shape.key_type.name,
        "value_type": shape.value_type.name,
    }  # fmt: skip
