"""PEFT's LoRA adapters added to the weights of a checkpoint: W + scale · B · A, by rows as they are read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property

import numpy as np

from ggufpy.convert.names import placed
from ggufpy.convert.peft import Pair, Peft
from ggufpy.errors import GGUFError
from ggufpy.format.rows import PIECE, Bytes, Floats, Rows, Single, Transposed, encoded, rows_of
from ggufpy.format.values import shown
from ggufpy.support.records import dataclass

_ROUNDED = ("F16", "BF16")


@dataclass(frozen=True, eq=False)
class Merged(Single):
    """W + scale · b · a in float32, rounded to W's type once where that is one of floats, F32 otherwise."""

    pair: Pair
    scale: float

    @property
    def type(self) -> str:
        return self.source.type if self.source.type in _ROUNDED and not self.source.quantised else "F32"

    @property
    def quantised(self) -> bool:
        return False

    @cached_property
    def _a(self) -> Floats:
        with np.errstate(over="ignore", invalid="ignore"):
            scaled: Floats = self.pair.a.to_numpy() * np.float32(self.scale)
        return scaled

    def rows(self, start: int, stop: int) -> Bytes:
        return encoded(self._sum(start, stop), self.type)

    def _sum(self, start: int, stop: int) -> Floats:
        with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is refused when it is written
            made: Floats = self.pair.b.floats(start, stop) @ self._a
            made += self.source.floats(start, stop)
        return made

    def release(self) -> None:
        vars(self).pop("_a", None)  # of all weights together it would be much
        for rows in (self.source, self.pair.a, self.pair.b):
            rows.release()


def with_adapters(
    tensors: Mapping[str, Rows], adapters: Sequence[tuple[Peft, float]], anchor: str = ""
) -> dict[str, Rows]:
    """A checkpoint's tensors by the names that rules have, each with what adapters change it by, times their scales.

    Weights that an adapter has whole (modules_to_save), or that its pairs were trained on, take the place of the
    checkpoint's. `anchor` is the checkpoint's (`names.canonical`). Raises GGUFError for those that the checkpoint has
    not or that have other shapes, for an adapter that has weights whole and a scale but 1, and for weights that one
    adapter replaces and another changes.
    """
    made = dict(tensors)
    changed: dict[str, Peft] = {}
    for adapter, scale in adapters:
        if adapter.whole and scale != 1:
            raise GGUFError(f"{adapter.folder} replaces {shown(next(iter(adapter.whole)))}, which no scale but 1 can")
        if adapter.invocation:
            raise GGUFError(f"{adapter.folder} is an activated LoRA, which counts from some tokens on: none to merge")
        bases = placed(adapter.bases, made, anchor)
        for name, rows in {**bases, **placed(adapter.whole, made, anchor)}.items():
            if name not in made or made[name].shape != rows.shape:
                raise GGUFError(f"{adapter.folder} replaces {shown(name)} {list(rows.shape)}, which the model has not")
            if (name in bases or name in changed) and _same(rows, tensors[name]):
                continue  # what is beside a pair is mostly a copy of the model's
            if name in changed:
                raise GGUFError(
                    f"{adapter.folder} replaces {shown(name)}, which {changed[name].folder} changes: merge one of them"
                )
            made[name] = rows
        for name, pair in placed(adapter.pairs, made, anchor).items():
            if name not in made:
                raise GGUFError(f"{adapter.folder} changes {shown(name)}, which the model has not")
            made[name] = _merged(made[name], pair, adapter, name, scale)
        changed |= {name: adapter for name in made if made[name] is not tensors[name] and name not in changed}
    return made


def _same(one: Rows, other: Rows) -> bool:
    """Whether two tensors of a shape have the same numbers."""
    count, step = rows_of(one.shape), max(PIECE // max(one.columns, 1), 1)
    spans = ((start, min(start + step, count)) for start in range(0, count, step))
    return all(np.array_equal(one.floats(*span), other.floats(*span)) for span in spans)


def _merged(weight: Rows, pair: Pair, adapter: Peft, name: str, scale: float) -> Rows:
    out, columns = pair.shape
    turned = not pair.embedding and (adapter.turned if out == columns else weight.shape == (columns, out))
    if weight.shape != ((columns, out) if turned else (out, columns)):
        raise GGUFError(f"{adapter.folder} is for {shown(name)} of shape [{out}, {columns}], not {list(weight.shape)}")
    if turned:
        pair = Pair(Transposed(pair.b), Transposed(pair.a), pair.scale)
    return Merged(weight, pair, pair.scale * scale)
