"""A file some of whose metadata is replaced in memory, as a caller wants it: the file itself stays as it is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from ggufpy.format.memory import ArraySource
from ggufpy.format.metadata import Metadata
from ggufpy.format.strings import StringArray
from ggufpy.format.values import Typed
from ggufpy.support.records import dataclass

if TYPE_CHECKING:
    from ggufpy.format.reader import GGUFFile
    from ggufpy.format.tensor import Tensor


class Overlay(Metadata):
    """The metadata of a file with `changes` over it."""

    def __init__(self, under: Metadata, changes: Mapping[str, Any]) -> None:
        self._under, self._over = under, ArraySource(changes, {}).metadata

    def _of(self, key: object) -> Metadata:
        return self._over if key in self._over else self._under

    def __getitem__(self, key: str) -> Any:
        return self._of(key)[key]

    def __iter__(self) -> Iterator[str]:
        yield from self._under
        yield from (key for key in self._over if key not in self._under)

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __contains__(self, key: object) -> bool:
        return key in self._over or key in self._under

    def type(self, key: str) -> str:
        """See Metadata."""
        return self._of(key).type(key)

    def count(self, key: str) -> int:
        """See Metadata."""
        return self._of(key).count(key)

    def strings(self, key: str) -> StringArray:
        """See Metadata."""
        return self._of(key).strings(key)

    def array(self, key: str) -> NDArray[Any]:
        """See Metadata."""
        return self._of(key).array(key)

    def typed(self, key: str) -> Typed:
        """See Metadata."""
        return self._of(key).typed(key)


@dataclass(frozen=True)
class Overlaid:
    """The tensors of an open file, and its metadata with changes over it."""

    file: GGUFFile
    metadata: Metadata

    @property
    def tensors(self) -> Mapping[str, Tensor]:
        """The file's."""
        return self.file.tensors


def overlaid(file: GGUFFile, changes: Mapping[str, Any]) -> Overlaid:
    """`file` with `changes` over its metadata: plain values, which take the type that the file has, or `Typed`.

    "{arch}" in a key stands for the file's architecture. Raises GGUFError for values that cannot be written.
    """
    architecture = str(file.metadata.get("general.architecture", ""))
    named = {key.replace("{arch}", architecture): value for key, value in changes.items()}
    return Overlaid(file, Overlay(file.metadata, {key: _typed(file, key, value) for key, value in named.items()}))


def _typed(file: GGUFFile, key: str, value: Any) -> Any:
    """A plain number in the type that the file has it in; others as they are."""
    if isinstance(value, Typed) or key not in file.metadata or isinstance(value, bool | str):
        return value
    kind = file.metadata.type(key)
    return Typed(kind, value) if kind.startswith(("int", "uint", "float")) else value
