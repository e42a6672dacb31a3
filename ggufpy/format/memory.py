"""A model that is in memory: metadata and arrays in, what an open file offers out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray

from ggufpy.format.arrays import in_memory
from ggufpy.format.metadata import Metadata
from ggufpy.format.reader import Shard
from ggufpy.format.tensor import Tensor
from ggufpy.format.values import Blocks
from ggufpy.format.writer import header
from ggufpy.support import checks


class ArraySource:
    """Metadata and tensors, given as `write` takes them, as those of an open file: whatever runs a file runs it.

    `tensors` are NumPy arrays, `Blocks`, or tensors of open files. Their memory is used as it is: it must not change
    while the source, or a model made of it, is in use. Raises GGUFError for what cannot be in a file.
    """

    def __init__(self, metadata: Mapping[str, Any], tensors: Mapping[str, NDArray[Any] | Blocks | Tensor]) -> None:
        self.metadata: Metadata = Shard("the model in memory", header(metadata)).metadata
        given = checks.mapping("tensors", tensors)
        self.tensors: Mapping[str, Tensor] = {name: in_memory(name, value) for name, value in given.items()}
