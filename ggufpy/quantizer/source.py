"""What is quantised: metadata and tensors that give their rows, whether of a file or made while they are read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ggufpy.format.metadata import Metadata


class RowTensor(Protocol):
    """A tensor of a `QuantizeSource`; `format.Tensor` and `format.rows.NamedRows` are such."""

    name: str

    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def type(self) -> str: ...
    @property
    def nbytes(self) -> int: ...

    def rows(self, start: int, stop: int) -> NDArray[np.uint8]:
        """Rows `start` to `stop` as they are in a little-endian file, (rows, bytes a row); from any thread."""

    def release(self) -> None:
        """Says that the bytes are not wanted for a while."""


class QuantizeSource(Protocol):
    """An open file is one; `files` are the paths that it is read from."""

    @property
    def metadata(self) -> Metadata: ...
    @property
    def tensors(self) -> Mapping[str, RowTensor]: ...
    @property
    def files(self) -> Sequence[str]: ...
