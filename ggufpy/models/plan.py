"""A forward pass as data: ops over named buffers and weights. Models write plans, a backend runs them.

A buffer holds one float32 row for each token of a step; it is as wide as what is written to it. Of these "x" alone goes
from layer to layer: what another layer has left in other buffers is not to be read. A weight is named as in the file.
Ops run in order. An op says what it reads, writes and weighs, so whoever passes a plan on (a backend, a collector, a
rewrite) need not know the ops there are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Literal

from ggufpy.support.records import dataclass

from .op import Op, Weight
from .ops import AddScaled, Attend, Embed, Input, Tap

if TYPE_CHECKING:
    from .classifier import Classifier

Pooling = Literal["none", "mean", "cls", "last", "rank"]


@dataclass(frozen=True)
class Plan:
    """A model's forward pass: `embed` makes rows of "x" of tokens, each layer changes them, `head` makes "logits".

    A part of it that begins later has an `Input` in place of `embed`, and one that ends earlier has no head. A model
    that makes embeddings alone has a head without "logits", or none. `pooling` is what makes one row of a text's, where
    the model says so, and `classifier` what makes scores of that row, where it ranks texts; `dense` are
    matrices (rows, columns) that the row goes through otherwise, one after the other.
    """

    context: int
    vocabulary: int
    embed: Embed | Input
    layers: tuple[tuple[Op, ...], ...]
    head: tuple[Op, ...]
    pooling: Pooling | None = None
    classifier: Classifier | None = None
    dense: tuple[Weight, ...] = ()

    @cached_property
    def body(self) -> tuple[Op, ...]:
        """The ops of all layers."""
        return tuple(op for layer in self.layers for op in layer)

    @property
    def ops(self) -> tuple[Op, ...]:
        return (self.embed, *self.body, *self.head)

    @cached_property
    def weights(self) -> dict[str, Weight]:
        """Every tensor that the plan uses, by name."""
        return {weight.name: weight for op in self.ops for weight in op.weights}

    @property
    def width(self) -> int:
        """Of a row of "x"."""
        return self.embed.writes["x"]

    @property
    def makes_logits(self) -> bool:
        """Whether the head ends in logits."""
        return any("logits" in op.writes for op in self.head)

    @cached_property
    def whole_texts(self) -> bool:
        """Whether tokens see what follows them, so that a text must be evaluated in one step."""
        return any(isinstance(op, Attend) and not op.causal for op in self.body)

    @cached_property
    def hidden(self) -> tuple[tuple[Op, ...], str, int]:
        """The final hidden state, which embeddings are made of: the ops of the head that make it, its buffer and width.

        It is what the logits are a product of; without logits what the head leaves.
        """
        at = next((i for i, op in enumerate(self.head) if "logits" in op.writes), len(self.head))
        ops = self.head[:at]
        if at < len(self.head):
            buffer = self.head[at].reads[0]
        else:
            buffer = next((name for op in reversed(ops) if not isinstance(op, Tap) for name in op.writes), "x")
        return ops, buffer, {"x": self.width, **widths(ops)}[buffer]

    @cached_property
    def adapters(self) -> int:
        """How many adapters rows have a scale of: their numbers go from 0 to this."""
        return max((op.adapter + 1 for op in self.ops if isinstance(op, AddScaled)), default=0)

    def part(self, start: int, stop: int) -> Plan:
        """The layers from `start` to `stop`, with what comes before the first and after the last of all."""
        embed = self.embed if start == 0 else Input("x", self.width)
        head = self.head if stop == len(self.layers) else ()
        return replace(self, embed=embed, layers=self.layers[start:stop], head=head)


def kinds_of_layers(layers: Iterable[tuple[Op, ...]], about: Callable[[Weight], object]) -> list[tuple[Op, ...]]:
    """One of each kind: layers of a kind differ in which they are and what `about` does not tell of their weights."""
    by_kind: dict[object, tuple[Op, ...]] = {}
    for ops in layers:
        kind = tuple(
            (type(op), *(about(value) if isinstance(value, Weight) else value
                         for name, value in vars(op).items() if name != "layer"))
            for op in ops
        )  # fmt: skip
        by_kind.setdefault(kind, ops)
    return list(by_kind.values())


def widths(ops: Iterable[Op]) -> dict[str, int]:
    """How wide each buffer or view is, at most: layers may differ in it, and an op says its own width."""
    by_name: dict[str, int] = {}
    for op in ops:
        for name, width in op.writes.items():
            by_name[name] = max(width, by_name.get(name, 0))
    return by_name
