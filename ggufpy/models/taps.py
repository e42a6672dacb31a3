"""Activations by name: what a plan leaves in which buffer, and what a function that looks at one is given.

Names are llama.cpp's where it has one of its own, else those of the tensors that make them. Of layer 3:

    blk.3.attn_norm, blk.3.ffn_up, …   what the op with the tensor blk.3.attn_norm.weight gives, its bias included
    blk.3.kqv_out                      what attention gives, before attn_output
    blk.3.attn_out, blk.3.ffn_out      what attn_output and ffn_down give, before it is added to anything
    blk.3.ffn_gate_par                 gate and up together, which ffn_down reads
    blk.3.ffn_inp                      x with what attention has added
    blk.3.l_out                        x as the layer leaves it

and around the layers: inp_embd (the embeddings, scaled), result_norm (what output_norm gives) and result_output (the
logits). The last two are computed for rows whose logits are wanted, and for no others. `activations` lists them all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ggufpy.support.records import dataclass

from .op import Op
from .ops import Add, AddScaled, Attend, Embed, ExpertMatMul, Gate, MatMul
from .plan import Plan

OWN = {"attn_output": "attn_out", "ffn_down": "ffn_out", "output_norm": "result_norm"}  # by the tensor's last word


@dataclass(frozen=True)
class TapRows:
    """Of every row the number of its sequence in the step, its position there, and its token: arrays (rows,).

    `sequences` are the step's sequences by that number, where the runner has such.
    """

    sequence: NDArray[np.int64]
    position: NDArray[np.int64]
    token: NDArray[np.int64]
    sequences: tuple[object, ...] = ()


# Takes the values (rows, width), which it may change in place, or returns others in their stead.
Hook = Callable[[NDArray[Any], TapRows], NDArray[Any] | None]


@dataclass(frozen=True)
class Place:
    """Where an activation is: `buffer`, `width` wide, behind op `last` of a part; op `first` makes it.

    Parts are the layers, then the head. `added`: the ops add it to the buffer, where it cannot be seen by itself.
    """

    part: int
    first: int
    last: int
    buffer: str
    width: int
    added: bool = False


def activations(plan: Plan) -> dict[str, Place]:
    """Every activation that has a name, in order."""
    places: dict[str, Place] = {}
    if isinstance(plan.embed, Embed):
        places["inp_embd"] = Place(0, -1, -1, plan.embed.y, plan.width)
    for i, ops in enumerate((*plan.layers, plan.head)):
        for name, place in _of_layer(i, ops, plan) if i < len(plan.layers) else _of_head(i, ops):
            places.setdefault(name, place)
    return places


def _of_layer(i: int, ops: Sequence[Op], plan: Plan) -> Iterator[tuple[str, Place]]:
    attended = False
    for place, op in _places(i, ops):
        if isinstance(op, Attend):
            attended = True
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
