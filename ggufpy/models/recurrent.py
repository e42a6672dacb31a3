"""Ops whose state goes along a text: short convolutions and scans. A state belongs to one layer of one sequence.

No backend runs them yet; the interpreter says what they mean.
"""

from __future__ import annotations

from collections.abc import Mapping

from ggufpy.support.records import dataclass

from .op import Op, Weight
from .ops import Heads


@dataclass(frozen=True)
class Conv(Op):
    """y_t = Σ_j weight[:, j] · x_(t - n + 1 + j) + bias by column, for n taps; before the text x is 0.

    weight is (columns, n). The state of `layer` is the latest n - 1 rows of x. Facts: ggml_ssm_conv.
    """

    layer: int
    x: str
    weight: Weight
    y: str
    bias: Weight | None = None

    @property
    def reads(self) -> tuple[str, ...]:
        return (self.x,)

    @property
    def writes(self) -> Mapping[str, int]:
        return {self.y: self.weight.shape[0]}


@dataclass(frozen=True)
class Scan(Op):
    """A matrix S of values by keys for each head, 0 before the text, which every token fades, writes to and reads:

        d = log(1 + e^(step + bias))       r = sigmoid(rate), or d where there is no rate
        S = S · e^(decay · d)              S += r · (v - u) kᵀ, u = S k where `delta` is set, or 0
        y = S q + skip · v

    q and k have `heads.shared` heads, v and y `heads.queries`; step and rate have a number for each of these. decay is
    (queries, 1) or, by dimension of a key, (queries, key length); bias and skip have a number a head. The state of
    `layer` is S. Mamba 2 has B, C, x and dt for k, q, v and step; Mamba 1 heads of one value; Qwen3-Next sets delta.
    Facts: ggml_ssm_scan; src/models/qwen3next.cpp of llama.cpp.
    """

    layer: int
    q: str
    k: str
    v: str
    step: str
    y: str
    heads: Heads
    decay: Weight
    bias: Weight | None = None
    rate: str | None = None
    skip: Weight | None = None
    delta: bool = False

    @property
    def reads(self) -> tuple[str, ...]:
        return (self.q, self.k, self.v, self.step, *(() if self.rate is None else (self.rate,)))

    @property
    def writes(self) -> Mapping[str, int]:
        return {self.y: self.heads.queries * self.heads.value_length}
