"""The ops of plans: what each computes, over named buffers and weights. `plan.py` says what these are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from ggufpy.support.records import dataclass

from .op import Op, Weight


class FromX(Op):
    """What reads x alone."""

    x: str

    @property
    def reads(self) -> tuple[str, ...]:
        return (self.x,)


class IntoY(Op):
    """What writes `width` columns of y."""

    y: str
    width: int

    @property
    def writes(self) -> Mapping[str, int]:
        return {self.y: self.width}


class InPlace(FromX):
    """What changes `width` columns of x where they are."""

    width: int

    @property
    def writes(self) -> Mapping[str, int]:
        return {self.x: self.width}


class Onto(IntoY):
    """What changes `width` columns of y by something of x."""

    x: str

    @property
    def reads(self) -> tuple[str, ...]:
        return self.x, self.y


@dataclass(frozen=True)
class Embed(Op):
    """y = scale · the row of `weight` (vocabulary, width) that a token names.

    Where tokens have learned positions, the row of `positions` (positions, width) with the token's position is added,
    which limits the context to as many as there are. `constant` is a matrix whose first row is added to every token's
    (the type of the tokens of a text that is alone, in BERT).
    """

    weight: Weight
    y: str
    scale: float = 1.0
    positions: Weight | None = None
    constant: Weight | None = None

    @property
    def reads(self) -> tuple[str, ...]:
        return ()

    @property
    def writes(self) -> Mapping[str, int]:
        return {self.y: self.weight.shape[1]}


@dataclass(frozen=True)
class Input(IntoY):
    """y is given: what the layers before these have left. It stands for `Embed` in a part of a plan."""

    y: str
    width: int

    @property
    def reads(self) -> tuple[str, ...]:
        return ()


@dataclass(frozen=True)
class View(FromX, IntoY):
    """From here on y is columns at to at + width of x: what changes one changes the other. It computes nothing.

    So it is until y is named anew, by another view or by an op that writes it without reading it, and at most to the
    end of the layer. Products of fused matrices are taken apart like this: of (q, k, v), of (gate, up).
    """

    x: str
    at: int
    width: int
    y: str


@dataclass(frozen=True)
class Norm(FromX):
    """y = f(x) · weight + bias for each of `groups` equal parts of a row.

    All parts have the same weight and bias, of shape (length,), or each its own: both are (groups, length) then.
    f(x) is x / sqrt(mean(x²) + eps) for "rms", (x - mean(x)) / sqrt(variance(x) + eps) for "layer", and
    x / max(sqrt(Σ x²), eps) for "l2". Without a weight (1) or a bias (0), `length` says how wide a part is.
    """

    x: str
    weight: Weight | None
    y: str
    eps: float
    groups: int = 1
    kind: Literal["rms", "layer", "l2"] = "rms"
    bias: Weight | None = None
    length: int = 0

    @property
    def part(self) -> int:
        """The width of a part."""
        return self.length if self.weight is None else self.weight.shape[-1]

    @property
    def writes(self) -> Mapping[str, int]:
        return {self.y: self.groups * self.part}


@dataclass(frozen=True)
class MatMul(Op):
    """y = weight · x + bias, or y += where `add` is set."""

    x: str
    weight: Weight
    y: str
    bias: Weight | None = None
    add: bool = False

    @property
    def reads(self) -> tuple[str, ...]:
        return (self.x, self.y) if self.add else (self.x,)

    @property
    def writes(self) -> Mapping[str, int]:
        return {self.y: self.weight.shape[0]}


@dataclass(frozen=True)
class Add(Onto):
    """y += x."""

    x: str
    y: str
    width: int


@dataclass(frozen=True)
class AddScaled(Onto):
    """y += factor · s · x, where s is what the row's sequence says of `adapter`; rows where s is 0 stay as they are."""

    x: str
    y: str
    width: int
    adapter: int
    factor: float = 1.0


@dataclass(frozen=True)
class Tap(InPlace):
    """A place where x may be looked at and changed, by whoever runs the plan and knows `name`; else nothing happens.

    With `heads` it is looked at as so many equal parts. With `attention`, which has just written x, it is not x that is
    looked at but the probabilities by which values became x; where they are changed, x follows.
    """

    name: str
    x: str
    width: int
    heads: int = 0
    attention: Attend | None = None

    @property
    def reads(self) -> tuple[str, ...]:
        return (self.x,) if self.attention is None else (self.attention.q, self.x)


@dataclass(frozen=True)
class Scale(InPlace):
    """x *= factor."""

    x: str
    width: int
    factor: float


@dataclass(frozen=True)
class SoftCap(InPlace):
    """x = cap · tanh(x / cap): next to x where it is small, and never beyond cap."""

    x: str
    width: int
    cap: float


@dataclass(frozen=True)
class Rope:
    """Rotary positions: `dimensions` of each head are turned, pair i by position · base^(-2i/dimensions) and scaling.

    `factors` divide the frequency of each pair. `neox` pairs dimension i with i + dimensions/2 instead of 2i with 2i+1.
    `sections` says how many pairs, from the first, turn by each of several positions (M-RoPE: time, height, width of
    what a token shows). The tokens of a text have one position in all of them, so there it changes nothing.
    `truncated`: the ramp of YaRN begins and ends at whole pairs.
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
    sections: tuple[int, ...] = ()
    log_multiplier: float = 0.0  # of YaRN's growth of the magnitude, by which it is divided again
    truncated: bool = True


@dataclass(frozen=True)
class Rotate(FromX):
    """Turns each of the `heads` heads of x, `length` wide, by its token's position, in place."""

    x: str
    heads: int
    length: int
    rope: Rope

    @property
    def writes(self) -> Mapping[str, int]:
        return {self.x: self.heads * self.length}


@dataclass(frozen=True)
class Heads:
    """Geometry of attention: query heads, key/value heads, and the widths of a key and a value."""

    queries: int
    shared: int
    key_length: int
    value_length: int

    @property
    def group(self) -> int:
        """Query heads that share one key/value head."""
        return self.queries // self.shared


@dataclass(frozen=True)
class StoreKv(Op):
    """Appends k and v to the keys and values of the sequence, in the cache of `layer`."""

    layer: int
    k: str
    v: str
    heads: Heads

    @property
    def reads(self) -> tuple[str, ...]:
        return self.k, self.v

    @property
    def writes(self) -> Mapping[str, int]:
        return {}


@dataclass(frozen=True)
class Attend(Op):
    """y = softmax(s) · values with scores s = q · keys · scale, of the cache of `layer`, by head.

    A token sees itself and what is before it, or with `window` > 0 the latest `window` positions, itself included.
    Where `causal` is false it sees the whole text, which must then come in one step; with `window` > 0 those positions
    of it that are at most window // 2 from its own, before and behind (LLAMA_SWA_TYPE_SYMMETRIC, src/llama-hparams.h
    of llama.cpp). The cache may be one that a layer before this has stored to. With `softcap` > 0 scores are
    softcap · tanh(s / softcap).
    `sinks` has a score for each query head that softmax's sum counts and that has no value. q is used up: it is not to
    be read again.
    """

    layer: int
    q: str
    y: str
    heads: Heads
    scale: float
    window: int = 0
    softcap: float = 0.0
    sinks: Weight | None = None
    causal: bool = True

    @property
    def reads(self) -> tuple[str, ...]:
        return (self.q,)

    @property
    def writes(self) -> Mapping[str, int]:
        return {self.y: self.heads.queries * self.heads.value_length}


@dataclass(frozen=True)
class Gate(IntoY):
    """y = f(gate) · up by element, or f(gate) where `up` is None.

    f(x) is x / (1 + e^-x) for "silu", x/2 · (1 + tanh(√(2/π) · (x + 0.044715 x³))) for "gelu", x/2 · (1 + erf(x/√2))
    for "gelu_erf", max(x, 0) for "relu" and its square for "relu2". "clamped" is gpt-oss's: with m = min(x, 7), f(x) is
    m / (1 + e^(-1.702 m)), and up is held within ±7 and raised by 1 (ggml_swiglu_oai).
    """

    gate: str
    up: str | None
    y: str
    width: int
    kind: Literal["silu", "gelu", "gelu_erf", "relu", "relu2", "clamped"] = "silu"

    @property
    def reads(self) -> tuple[str, ...]:
        return (self.gate,) if self.up is None else (self.gate, self.up)


@dataclass(frozen=True)
class Route(FromX):
    """Chooses `count` of `experts` by their logits x; writes their numbers, best first, to `chosen`, and to `shares` by
    what the output of each is multiplied.

    p = softmax(x), sigmoid(x), or x itself for "softmax_of_chosen". The score of an expert is p + bias; the largest are
    chosen, of equal ones the lower number. With `groups` > 1, equal runs of experts, only those of the `groups_used`
    best count: a group's score is the sum of its two best, or of its one. An expert's share is its p without the bias
    (for "softmax_of_chosen" the softmax of the chosen p), divided by the sum of those of the chosen, but at least by
    2^-14, where `renormalised`; times scale.
    Facts: build_moe_ffn in src/llama-graph.cpp of llama.cpp.
    """

    x: str
    experts: int
    chosen: str
    shares: str
    count: int
    kind: Literal["softmax", "sigmoid", "softmax_of_chosen"] = "softmax"
    bias: Weight | None = None
    groups: int = 1
    groups_used: int = 1
    renormalised: bool = False
    scale: float = 1.0

    @property
    def writes(self) -> Mapping[str, int]:
        return {self.chosen: self.count, self.shares: self.count}


@dataclass(frozen=True)
class ExpertMatMul(Op):
    """Products of the `count` experts in `chosen` (see `Route`), of which expert e has the matrix weight[e].

    y is in `count` parts, one for each chosen expert e: weight[e] · x + bias[e]. x is the same for all of them, or has
    a part for each where it is `own`: nothing else in the plan may read that buffer whole, so a dense layer beside it
    has a name of its own for what its down matrix reads. With `shares`, y is the sum of all parts, each times its
    share, or y += where `add` is set. weight is (experts, rows, columns), bias (experts, rows). So an expert
    feed-forward is two of them ("gate", "up"), a `Gate` as wide as all parts, and one with own x and shares ("down").
    """

    x: str
    chosen: str
    weight: Weight
    y: str
    count: int
    bias: Weight | None = None
    own: bool = False
    shares: str | None = None
    add: bool = False

    @property
    def reads(self) -> tuple[str, ...]:
        names = (self.x, self.chosen, *(() if self.shares is None else (self.shares,)))
        return (*names, self.y) if self.add else names

    @property
    def writes(self) -> Mapping[str, int]:
        return {self.y: self.weight.shape[1] * (self.count if self.shares is None else 1)}
