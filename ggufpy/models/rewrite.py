"""Plans made of plans: with adapters (LoRA), and with taps, where activations are looked at or changed.

In: a plan, and what is to be added. Out: another plan; what is not concerned stays as it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from ggufpy.errors import GGUFError
from ggufpy.format.values import shown

from .lora import Adapter, tensor_name
from .op import Op, Weight
from .ops import Add, AddScaled, ExpertMatMul, MatMul, Tap
from .plan import Plan
from .taps import Place, activations, matching


def with_lora(plan: Plan, adapters: Sequence[Adapter]) -> Plan:
    """Each product of a matrix W that adapters change becomes y = W x + Σ s · factor · B (A x), s chosen by sequence.

    The weights are those of a `lora.LoraSource`. Raises GGUFError for an adapter of a matrix that the plan does not
    multiply by, or of another shape.
    """
    _check(plan, adapters)

    def changed(ops: Sequence[Op]) -> tuple[Op, ...]:
        return tuple(new for op in ops for new in _adapted(op, adapters))

    return replace(plan, layers=tuple(map(changed, plan.layers)), head=changed(plan.head))


def _check(plan: Plan, adapters: Sequence[Adapter]) -> None:
    shapes = {op.weight.name: op.weight.shape for op in plan.ops if isinstance(op, MatMul)}
    for adapter in adapters:
        unknown = sorted(set(adapter.pairs) - set(shapes))
        if unknown:
            more = f" and {len(unknown) - 4} more" if len(unknown) > 4 else ""
            names = ", ".join(map(shown, unknown[:4]))
            raise GGUFError(f"{adapter.name} changes {names}{more}, which the model does not multiply by")
        for name, pair in adapter.pairs.items():
            shape, ours = (pair.b.shape[0], pair.a.shape[1]), shapes[name]
            if shape != ours:
                raise GGUFError(f"{adapter.name} is for another model: it changes {shown(name)} as {shape}, not {ours}")


def _adapted(op: Op, adapters: Sequence[Adapter]) -> Iterator[Op]:
    """An op with what adapters add to it. A x comes before W x, which may be written where x is."""
    pairs = [
        (i, adapter.pairs[op.weight.name], adapter.factor(op.weight.name))
        for i, adapter in enumerate(adapters)
        if isinstance(op, MatMul) and op.weight.name in adapter.pairs
    ]
    if not isinstance(op, MatMul) or not pairs:
        yield op
        return
    for i, pair, _ in pairs:
        a = Weight(tensor_name(i, op.weight.name, "a"), pair.a.shape)
        yield MatMul(op.x, a, _inner(i, pair.rank))
    yield op
    for i, pair, factor in pairs:
        b, added = Weight(tensor_name(i, op.weight.name, "b"), pair.b.shape), f"lora.{op.y}"
        yield MatMul(_inner(i, pair.rank), b, added)
        yield AddScaled(added, op.y, op.weight.shape[0], i, factor)


def _inner(adapter: int, rank: int) -> str:
    """The buffer of A x."""
    return f"lora.{adapter}.{rank}"


def with_taps(plan: Plan, names: Iterable[str]) -> Plan:
    """With a `Tap` where each of these activations is whole (`taps.py`); names may be patterns.

    What is added to a buffer as it is computed gets a buffer of its own, and is added behind the tap. Raises GGUFError
    for a name that the plan has no activation of.
    """
    places = activations(plan)
    wanted = {name for pattern in names for name in matching(places, pattern)}
    parts = [list(ops) for ops in (*plan.layers, plan.head)]
    behind: dict[tuple[int, int], list[Op]] = {}
    for name, place in places.items():  # in order: at one place each sees what those before it leave
        if name in wanted:
            there = behind.setdefault((place.part, place.last), [])
            there += _apart(parts[place.part], place, name) if place.added else [place.tap(name)]
    for part, last in sorted(behind, reverse=True):
        parts[part][last + 1 : last + 1] = behind[part, last]
    *layers, head = map(tuple, parts)
    return replace(plan, layers=tuple(layers), head=head)


def _apart(ops: list[Op], place: Place, name: str) -> tuple[Op, Op]:
    """Has what is added written to a buffer of its own. The tap of it, and the addition."""
    buffer = f"apart.{place.buffer}.{place.width}"
    for at in range(place.first, place.last + 1):
        op = ops[at]
        if isinstance(op, MatMul | ExpertMatMul) and op.add and op.y == place.buffer:
            ops[at] = replace(op, y=buffer, add=False)
        elif isinstance(op, AddScaled):
            ops[at] = replace(op, y=buffer)
    return Tap(name, buffer, place.width), Add(buffer, place.buffer, place.width)
