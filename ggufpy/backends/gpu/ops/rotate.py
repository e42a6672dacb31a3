"""Rotation of heads in place: with what is stored where that follows, else a launch by itself."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ggufpy.backends.gpu.device import Launch
from ggufpy.backends.gpu.lowering import Lowering
from ggufpy.backends.gpu.source import KernelSpec
from ggufpy.models.op import Op
from ggufpy.models.ops import Rope, Rotate

from . import store_kv

LOWERS = (Rotate,)
ARGS = (("x", "float*"), ("angles", "const float*"), ("stride", "int"), ("heads", "int"))


def lower(to: Lowering, ops: Sequence[Op]) -> tuple[int, Iterator[Launch]]:
    if (found := store_kv.stored_with(ops)) is not None:
        return found.count, store_kv.works(to, found)
    return 1, _works(to, ops[0])


def _works(to: Lowering, op: Op) -> Iterator[Launch]:
    assert isinstance(op, Rotate)
    pairs = op.heads * (op.rope.dimensions // 2)
    if not pairs:
        return
    place, code = to.place(op.x), _spec(op.length, op.rope)
    values = {"x": place.address, "angles": to.parts.angles(op.rope), "stride": place.stride, "heads": op.heads}
    yield to.launch(code, values, (to.shape.end, -(-pairs // code.threads), 1))


def _spec(length: int, rope: Rope) -> KernelSpec:
    return KernelSpec("rotate", ARGS, (("LENGTH", length), *store_kv.turning(rope)), threads=128)


def examples() -> list[KernelSpec]:
    """One of each variant."""
    return [_spec(128, Rope(64, 10_000.0, neox)) for neox in (False, True)]
