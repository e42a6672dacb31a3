"""Activations by name: what a plan leaves in which buffer, and what a function that looks at one is given.

Names are llama.cpp's where it has one of its own, else those of the tensors that make them. Of layer 3:

    blk.3.attn_norm, blk.3.ffn_up, …   what the op with the tensor blk.3.attn_norm.weight gives, its bias included
    blk.3.Qcur, .Kcur, .Vcur           queries, keys and values by head, as attention takes them: turned by position
    blk.3.kq_soft_max                  by how much attention weighs each position's value
    blk.3.kqv_out                      what attention gives, before attn_output
    blk.3.attn_out, blk.3.ffn_out      what attn_output and ffn_down give, before it is added to anything
    blk.3.ffn_gate_par                 gate and up together, which ffn_down reads
    blk.3.ffn_inp                      x with what attention has added
    blk.3.l_out                        x as the layer leaves it

and around the layers: inp_embd (the embeddings, scaled), result_norm (what output_norm gives) and result_output (the
logits). The last two are computed for rows whose logits are wanted, and for no others. `activations` lists them all.

A function is given values (rows, width), of Qcur, Kcur and Vcur (rows, heads, length), float32. Queries are not yet
scaled; keys and values are not yet rounded to the cache's type. Layers that attend to the keys of another have Qcur
alone.

Of kq_soft_max it is given values (rows, query heads, positions). Rows are consecutive tokens of one text, as many as
make 32 MiB, at least one; column j is position j of the text. There are as many columns as the last row sees: up to its
own position, or to the end of the text where tokens see what follows them. What a row does not see (what follows it, or
is outside its window) is 0 and has to stay 0. A row sums to 1, or to less where a sink has a share. Where the function
changes something, that head's output for that row becomes the sum of values by these numbers, whatever their sum;
all else keeps its bits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ggufpy.errors import GGUFError
from ggufpy.format.values import shown
from ggufpy.support.records import dataclass

from .op import Op
from .ops import Add, AddScaled, Attend, Embed, ExpertMatMul, Gate, MatMul, StoreKv, Tap
from .plan import Plan

OWN = {"attn_output": "attn_out", "ffn_down": "ffn_out", "output_norm": "result_norm"}  # by the tensor's last word


@dataclass(frozen=True)
class TapRows:
    """Of every row the number of its sequence in the step, its position there, and its token: arrays (rows,).

    `name` is the activation's. `sequences` are the step's sequences by number, where the runner has such.
    """

    sequence: NDArray[np.int64]
    position: NDArray[np.int64]
    token: NDArray[np.int64]
    name: str = ""
    sequences: tuple[object, ...] = ()


# Takes the values, a row each, which it may change in place, or returns others in their stead.
Hook = Callable[[NDArray[Any], TapRows], NDArray[Any] | None]


@dataclass(frozen=True)
class Place:
    """Where an activation is: `buffer`, `width` wide, behind op `last` of a part; op `first` makes it.

    Parts are the layers, then the head. `added`: the ops add it to the buffer, where it cannot be seen by itself. With
    `heads` it is looked at by head. With `attention` it is the probabilities of that, which writes `buffer`.
    """

    part: int
    first: int
    last: int
    buffer: str
    width: int
    added: bool = False
    heads: int = 0
    attention: Attend | None = None

    @property
    def shape(self) -> tuple[int | None, ...]:
        """Of a row; None stands for the positions that there are."""
        if self.attention is not None:
            return self.attention.heads.queries, None
        return (self.heads, self.width // self.heads) if self.heads else (self.width,)

    def tap(self, name: str) -> Tap:
        """Where it is whole."""
        return Tap(name, self.buffer, self.width, self.heads, self.attention)


def activations(plan: Plan) -> dict[str, Place]:
    """Every activation that has a name, in order."""
    places: dict[str, Place] = {}
    if isinstance(plan.embed, Embed):
        places["inp_embd"] = Place(0, -1, -1, plan.embed.y, plan.width)
    for i, ops in enumerate((*plan.layers, plan.head)):
        for name, place in _of_layer(i, ops, plan) if i < len(plan.layers) else _of_head(i, ops):
            places.setdefault(name, place)
    return places


def matching(places: Mapping[str, Place], pattern: str) -> list[str]:
    """The names that a pattern is for: itself, or with * (anything), ? and [0-9] those that fit it, in order.

    Raises GGUFError if there are none.
    """
    if pattern in places:
        return [pattern]
    found = [name for name in places if fnmatchcase(name, pattern)]
    if not found:
        near = get_close_matches(pattern, places, 3, 0.5) or list(places)[:3]
        raise GGUFError(f"there is no activation {shown(pattern)}; the nearest are {', '.join(near)}")
    return found


def _of_layer(i: int, ops: Sequence[Op], plan: Plan) -> Iterator[tuple[str, Place]]:
    attended = False
    heads = _of_heads(i, ops)
    for place, op in _places(i, ops):
        while heads and heads[0][1].last < place.first:
            yield heads.pop(0)
        if isinstance(op, Attend):
            attended = True
            if op.q != op.y:  # else there is nothing left to compute them from
                yield f"blk.{i}.kq_soft_max", replace(place, attention=op)
            yield f"blk.{i}.kqv_out", place
        elif isinstance(op, Gate):
            yield f"blk.{i}.ffn_gate_par", place
        elif op.weights:
            yield _name(op), place
        if attended and place.buffer == "x" and (place.added or isinstance(op, Add)):
            attended = False
            if place.last < len(ops) - 1:
                yield f"blk.{i}.ffn_inp", Place(i, place.first, place.last, "x", plan.width)
    yield f"blk.{i}.l_out", Place(i, 0, len(ops) - 1, "x", plan.width)


def _of_heads(i: int, ops: Sequence[Op]) -> list[tuple[str, Place]]:
    """Queries, keys and values of the first attention: they are whole before keys are stored, or before it attends."""
    at = next((j for j, op in enumerate(ops) if isinstance(op, StoreKv | Attend)), None)
    attend = next((op for op in ops if isinstance(op, Attend)), None)
    if at is None or attend is None:
        return []
    h, store = attend.heads, ops[at]
    wanted = [("Qcur", attend.q, h.queries, h.key_length)]
    if isinstance(store, StoreKv):
        wanted += [("Kcur", store.k, h.shared, h.key_length), ("Vcur", store.v, h.shared, h.value_length)]
    return [
        (f"blk.{i}.{name}", Place(i, at - 1, at - 1, buffer, heads * length, heads=heads))
        for name, buffer, heads, length in wanted
    ]


def _of_head(i: int, ops: Sequence[Op]) -> Iterator[tuple[str, Place]]:
    logits: Place | None = None
    for place, op in _places(i, ops):
        if place.buffer == "logits":
            logits = place
        elif op.weights:
            yield _name(op), place
    if logits is not None:
        yield "result_output", logits


def _places(part: int, ops: Sequence[Op]) -> Iterator[tuple[Place, Op]]:
    """Where each op that writes a buffer leaves it, with what adapters add; not what adapters keep for themselves."""
    added = {op.x for op in ops if isinstance(op, AddScaled)}
    inner = {op.x for op in ops if isinstance(op, MatMul) and op.y in added}
    for at, op in enumerate(ops):
        if len(op.writes) == 1 and not isinstance(op, AddScaled):
            ((buffer, width),) = op.writes.items()
            if buffer not in added | inner:
                last = _with_adapters(ops, at, buffer)
                yield Place(part, at, last, buffer, width, isinstance(op, MatMul | ExpertMatMul) and op.add), op


def _with_adapters(ops: Sequence[Op], at: int, buffer: str) -> int:
    """The last of the ops by which adapters change what op `at` gives: a product and an AddScaled each, behind it."""
    last = at
    for product, add in zip(ops[at + 1 :: 2], ops[at + 2 :: 2], strict=False):
        if not isinstance(add, AddScaled) or add.y != buffer or add.x not in product.writes:
            break
        last += 2
    return last


def _name(op: Op) -> str:
    """blk.3.ffn_down.weight → blk.3.ffn_out."""
    layer, dot, tensor = op.weights[0].name.removesuffix(".weight").rpartition(".")
    return layer + dot + OWN.get(tensor, tensor)
