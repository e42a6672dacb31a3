"""Where weights come from: what a model is read from, whether a file, a split set, or arrays in memory.

An open file (`format.open`) and `format.ArraySource` are such sources, and so is a source with adapters (`lora.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ggufpy.format.metadata import Metadata


class SourceTensor(Protocol):
    """A tensor: its shape in NumPy order, the name of its type, and its bytes."""

    name: str

    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def type(self) -> str: ...
    @property
    def nbytes(self) -> int: ...

    def little(self) -> NDArray[np.uint8]:
        """Blocks in little-endian order, uint8 (..., bytes a row)."""

    def release(self) -> None:
        """Says that the bytes are not wanted for a while: memory that can be read again may go."""

    def to_numpy(self) -> NDArray[Any]:
        """The decoded values."""


TensorTable = Mapping[str, SourceTensor]


class WeightSource(Protocol):
    """Metadata, and tensors by name."""

    @property
    def metadata(self) -> Metadata: ...
    @property
    def tensors(self) -> TensorTable: ...
