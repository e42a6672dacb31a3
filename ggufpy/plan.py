"""A forward pass as data: ops over named buffers and weights. Models write plans, the runtime turns them into a tape.

A buffer holds one float32 row for each token of a step. A weight is named as in the file. Ops run in order; the runtime
works out from what each reads and writes where threads must wait for one another.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Weight:
    """A tensor the plan uses. shape is NumPy order: (rows, columns) for a matrix, (n,) for a vector."""

    name: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Norm:
    """y = x / sqrt(mean(x²) + eps) · weight."""

    x: str
    weight: Weight
    y: str
    eps: float


@dataclass(frozen=True)
class MatMul:
    """y = weight · x + bias, or y += where `add` is set."""

    x: str
    weight: Weight
    y: str
    bias: Weight | None = None
    add: bool = False


@dataclass(frozen=True)
class Attend:
    """Rotates q and k by position, appends k and v to the layer's cache, and attends: y = softmax(q kᵀ · scale) v.

    `window` > 0 is the number of latest positions that a token sees, itself included.
    """

    layer: int
    q: str
    k: str
    v: str
    y: str
    window: int = 0


@dataclass(frozen=True)
class SwiGlu:
    """y = silu(gate) · up."""

    gate: str
    up: str
    y: str


Op = Norm | MatMul | Attend | SwiGlu


def buffers(op: Op) -> tuple[str, ...]:
    """Names of the buffers that an op reads and writes."""
    if isinstance(op, Attend):
        return op.q, op.k, op.v, op.y
    return (op.gate, op.up, op.y) if isinstance(op, SwiGlu) else (op.x, op.y)


def written(op: Op) -> tuple[str, ...]:
    """Names of the buffers whose content an op changes."""
    return (op.q, op.k, op.v, op.y) if isinstance(op, Attend) else (op.y,)


@dataclass(frozen=True)
class Rope:
    """Rotary positions: `dimensions` of each head are turned, pair i by position · base^(-2i/dimensions) and scaling.

    `factors` divide the frequency of each pair. `neox` pairs dimension i with i + dimensions/2 instead of 2i with 2i+1.
    """

    dimensions: int
    base: float
    neox: bool = False
    factors: tuple[float, ...] = ()
    scaling: str = "none"
    factor: float = 1.0
    original_context: int = 0
    attention_factor: float = 1.0
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    low_frequency: float = 1.0
    high_frequency: float = 4.0


@dataclass(frozen=True)
class Heads:
    """Geometry of attention, the same in every layer."""

    queries: int
    shared: int
    key_length: int
    value_length: int
    scale: float

    @property
    def group(self) -> int:
        """Query heads that share one key/value head."""
        return self.queries // self.shared


@dataclass(frozen=True)
class Plan:
    """A model's forward pass. `body` turns the rows of buffer "x" (embeddings) into its last hidden state in place;
    `head` turns rows of "x" into rows of "logits"."""

    context: int
    vocabulary: int
    embedding: Weight
    layers: int
    heads: Heads
    rope: Rope
    widths: dict[str, int] = field(compare=False)
    body: tuple[Op, ...] = ()
    head: tuple[Op, ...] = ()

    def weights(self) -> dict[str, Weight]:
        """Every tensor that the plan uses, by name."""
        found = {self.embedding.name: self.embedding}
        for op in (*self.body, *self.head):
            for part in (getattr(op, "weight", None), getattr(op, "bias", None)):
                if isinstance(part, Weight):
                    found[part.name] = part
        return found
