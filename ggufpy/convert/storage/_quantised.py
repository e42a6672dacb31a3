"""What quantised tensors have in common: numbers that are decoded as they are read, and their faces in blocks."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable

from ggufpy.convert.safetensors import Stored
from ggufpy.format.rows import Bytes, Floats, Plain, Rows, Single, plain_bytes

from ._blocks import BLOCK


class Decoded(Rows):
    """A tensor of `size` that is stored in fewer bits and read as float32. Subclasses say how, in `floats`."""

    size: tuple[int, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        return self.size

    @property
    def type(self) -> str:
        return "F32"

    @property
    def quantised(self) -> bool:
        return True

    @property
    @abstractmethod
    def parts(self) -> Iterable[Stored]:
        """All tensors of the checkpoint that it is made of."""

    @abstractmethod
    def floats(self, start: int, stop: int) -> Floats:
        """Rows `start` to `stop`, (stop - start, columns)."""

    def rows(self, start: int, stop: int) -> Bytes:
        return plain_bytes(self.floats(start, stop))

    @property
    def in_eights(self) -> Rows | None:
        """What Q8_0 makes of any numbers, where rows are whole blocks."""
        return Plain(self, "Q8_0") if self.columns % BLOCK == 0 else None

    def release(self) -> None:
        for stored in self.parts:
            stored.release()


class InBlocks(Single):
    """The codes of another tensor in blocks of GGUF, of the type `kind`."""

    kind: str

    @property
    def type(self) -> str:
        return self.kind

    @property
    def quantised(self) -> bool:
        return True
