"""What a model that ranks or sorts texts makes of a text's pooled row: scores, a few numbers computed above the engine.

In: a row (width,) and the values of weights. Out: a score for each label, one where there are no labels. Facts:
build_pooling in src/llama-graph.cpp of llama.cpp (LLAMA_POOLING_TYPE_RANK).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ggufpy.errors import GGUFError
from ggufpy.support.records import dataclass

from .base import Inventory, Keys
from .op import Weight
from .plan import Pooling

Doubles = NDArray[np.float64]
Values = Callable[[Weight], NDArray[Any]]  # of a weight, in its own shape
DENSE, OUTPUT = "cls", "cls.output"
Activation = Literal["tanh", "gelu", "relu"]
# Of this package alone: the function behind `dense`. To llama.cpp it follows from the architecture.
FUNCTION = "classifier.activation"


@dataclass(frozen=True)
class Classifier:
    """s = output · norm(f(dense · row + bias)) + bias, each part where the model has it; `softmax` of that.

    `dense` is (n, width), `norm` (n,), a layer norm without bias, `output` (labels, n).
    """

    dense: Weight | None = None
    dense_bias: Weight | None = None
    activation: Activation = "tanh"
    norm: Weight | None = None
    eps: float = 1e-5
    output: Weight | None = None
    output_bias: Weight | None = None
    softmax: bool = False
    pooled: Pooling | None = None  # the row; None: the first where tokens see the whole text, else the last

    def scores(self, row: Doubles, values: Values) -> Doubles:
        """(labels,) of a pooled row (width,)."""

        def given(weight: Weight | None, otherwise: float) -> Doubles | float:
            return otherwise if weight is None else np.asarray(values(weight), np.float64)

        x = row
        if self.dense is not None:
            x = given(self.dense, 0.0) @ x + given(self.dense_bias, 0.0)
            x = _FUNCTIONS[self.activation](x)
            if self.norm is not None:
                x = (x - x.mean()) / np.sqrt(x.var() + self.eps) * given(self.norm, 1.0)
        if self.output is not None:
            x = given(self.output, 0.0) @ x + given(self.output_bias, 0.0)
        if self.softmax:
            x = np.exp(x - x.max())
            x = x / x.sum()
        return np.asarray(x, np.float64)


def _gelu(x: Doubles) -> Doubles:
    y: Doubles = x / 2 * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    return y


def _relu(x: Doubles) -> Doubles:
    y: Doubles = np.maximum(x, 0.0)
    return y


_FUNCTIONS: Mapping[Activation, Callable[[Doubles], Doubles]] = {"tanh": np.tanh, "gelu": _gelu, "relu": _relu}


def read_classifier(keys: Keys, tensors: Inventory, width: int, activation: Activation = "tanh") -> Classifier | None:
    """What a file has of it, None for nothing. `activation` is the function where it names none (FUNCTION).

    Raises GGUFError for tensors that do not fit `width` and the labels.
    """
    labels = keys.labels()
    dense = output = norm = None
    rows = width
    if f"{DENSE}.weight" in tensors:
        rows = width if f"{OUTPUT}.weight" in tensors else tensors.rows(f"{DENSE}.weight")
        dense = tensors.weight(f"{DENSE}.weight", rows, width)
        norm = tensors.optional("cls.norm.weight", rows)
    output = tensors.optional(f"{OUTPUT}.weight", labels, rows)
    if dense is None and output is None:
        return None
    dense_bias = None if dense is None else tensors.optional(f"{DENSE}.bias", rows)
    output_bias = None if output is None else tensors.optional(f"{OUTPUT}.bias", labels)
    if output is None and rows not in (labels, 1):
        raise GGUFError(f"tensor {DENSE}.weight has {rows} rows, for {labels} labels")
    said = keys.text(FUNCTION, activation)
    function = next((name for name in _FUNCTIONS if name == said), None)
    if function is None:
        raise GGUFError(f"{keys.architecture}.{FUNCTION} is {said[:40]!r}; ggufpy knows {', '.join(_FUNCTIONS)}")
    return Classifier(dense, dense_bias, function, norm, output=output, output_bias=output_bias)
