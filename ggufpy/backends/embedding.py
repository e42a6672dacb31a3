"""Rows of an embedding matrix, looked up as it lies in the file: the same for every backend."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ggufpy import quants
from ggufpy.models.ops import Embed, Input
from ggufpy.models.source import SourceTensor, TensorTable

Ints = NDArray[np.int64]
Floats = NDArray[np.float32]


class Embeddings:
    """What a plan begins with, by token and position."""

    def __init__(self, embed: Embed | Input, tensors: TensorTable) -> None:
        self._embed = embed
        tables = embed.weights if isinstance(embed, Embed) else ()
        self._rows = {weight.name: _Rows(tensors[weight.name]) for weight in tables}

    def rows(self, tokens: Ints, positions: Ints) -> Floats:
        """(tokens, n_embd) of tokens that are known to be in the vocabulary, at positions within the context.

        Raises ValueError where the layers are not the first.
        """
        op = self._embed
        if not isinstance(op, Embed):
            raise ValueError("these layers are not the first: they have no embeddings")
        rows = self._rows[op.weight.name].decoded(tokens)
        if op.scale != 1.0:
            rows = rows * np.float32(op.scale)
        if op.positions is not None:
            rows = rows + self._rows[op.positions.name].decoded(positions)
        if op.constant is not None:
            rows = rows + self._rows[op.constant.name].decoded(np.zeros(1, np.int64))
        return rows


class _Rows:
    """A matrix whose rows are wanted one by one, as it lies in the file."""

    def __init__(self, tensor: SourceTensor) -> None:
        self._kind, self._blocks = quants.get(tensor.type), tensor.little()

    def decoded(self, rows: Ints) -> Floats:
        """(n, columns) of the rows (n,)."""
        return self._kind.decode(self._blocks[rows])
