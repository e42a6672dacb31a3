"""What architectures read a file through: metadata by short key with checked values, and the table of tensors."""

from __future__ import annotations

from collections.abc import Mapping, Sized
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ggufpy import quants
from ggufpy.errors import GGUFError
from ggufpy.format.values import shown
from ggufpy.support.records import dataclass

from .op import Weight
from .plan import Pooling
from .source import TensorTable

LARGEST = (1 << 32) - 1  # counts are uint32 to llama.cpp, whatever type a file gives them
SENSIBLE = (1e-3, 1e6)
MOST_LABELS = 1 << 20
POOLINGS: tuple[Pooling, ...] = ("none", "mean", "cls", "last", "rank")


@dataclass(frozen=True)
class Counts:
    """A whole number of every layer: `values` has one for all of them, or one each."""

    name: str
    values: tuple[int, ...]

    def __getitem__(self, layer: int) -> int:
        return self.values[layer if len(self.values) > 1 else 0]

    @property
    def same(self) -> int:
        """The one that all layers have. Raises GGUFError if they differ."""
        if any(value != self.values[0] for value in self.values):
            raise GGUFError(f"{self.name} differs between layers, which ggufpy does not run yet")
        return self.values[0]


class Keys:
    """Metadata under an architecture's prefix: `keys.count("attention.head_count")`.

    `n_ctx` is the context that the model is planned for, 0 for its own.
    """

    def __init__(self, metadata: Mapping[str, Any], n_ctx: int = 0) -> None:
        self._metadata, self.n_ctx = metadata, n_ctx
        self.architecture = metadata.get("general.architecture")

    def _value(self, key: str, default: Any) -> tuple[str, Any]:
        name = f"{self.architecture}.{key}"
        if name in self._metadata:
            return name, self._metadata[name]
        if default is None:
            raise GGUFError(f"the metadata has no {name}, which this architecture needs")
        return name, default

    def count(self, key: str, default: int | None = None, least: int = 1) -> int:
        """A whole number of at least `least`; a list counts if all its entries (one a layer) agree."""
        return self.counts(key, None, default, least).same

    def counts(self, key: str, layers: int | None, default: int | Counts | None = None, least: int = 1) -> Counts:
        """Whole numbers of at least `least`, one for all layers or a list with one for each of `layers` (None: any)."""
        name, value = self._value(key, default)
        if isinstance(value, Counts):
            return value
        numbers = value.tolist() if isinstance(value, np.ndarray) else value
        listed = isinstance(numbers, list | tuple)
        if listed and (not numbers or (layers is not None and len(numbers) < layers)):
            raise GGUFError(f"{name} has {len(numbers)} numbers; it must have one for each of {layers or 'the'} layers")
        for one in numbers if listed else [numbers]:
            if isinstance(one, bool) or not isinstance(one, int | np.integer) or not least <= one <= LARGEST:
                raise GGUFError(f"{name} is {_short(one)}; it must be a whole number from {least} to {LARGEST}")
        return Counts(name, tuple(map(int, numbers[:layers])) if listed else (int(numbers),))

    def number(
        self,
        key: str,
        default: float | None = None,
        within: tuple[float, float] = SENSIBLE,
        or_zero: bool = False,
    ) -> float:
        """A number within the bounds given, which are far beyond any that a model has, or 0 where that is allowed."""
        name, value = self._value(key, default)
        low, high = within
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not is_number or not (low <= value <= high or (or_zero and value == 0)):
            zero = "0 or " if or_zero else ""
            raise GGUFError(f"{name} is {_short(value)}; it must be {zero}a number from {low:g} to {high:g}")
        return float(value)

    def flags(self, key: str, count: int, period: int) -> list[bool]:
        """One a layer: a list of true and false, or all but the last of every `period` layers; 0: of none."""
        name, value = self._value(key, period)
        if isinstance(value, np.ndarray | list | tuple):
            values = list(value)
            if len(values) < count or any(flag not in (False, True) for flag in values):
                raise GGUFError(f"{name} is {_short(value)}; it must have true or false for each of {count} layers")
            return [bool(flag) for flag in values[:count]]
        every = self.count(key, period, least=0)
        return [bool(every) and i % every < every - 1 for i in range(count)]

    def flag(self, key: str, default: bool | None = None) -> bool:
        """True or false."""
        name, value = self._value(key, default)
        if not isinstance(value, bool):
            raise GGUFError(f"{name} is {_short(value)}; it must be true or false")
        return value

    def text(self, key: str, default: str) -> str:
        name, value = self._value(key, default)
        if not isinstance(value, str):
            raise GGUFError(f"{name} is {_short(value)}; it must be a string")
        return value

    def labels(self) -> int:
        """How many labels a classifier's output has, 1 where the file names none."""
        name = f"{self.architecture}.classifier.output_labels"
        labels = self._metadata.get(name, [""])
        if not isinstance(labels, Sized) or isinstance(labels, str) or not 1 <= len(labels) <= MOST_LABELS:
            raise GGUFError(f"{name} is {_short(labels)}; it must have 1 to {MOST_LABELS:,} texts")
        return len(labels)

    def pooling(self, key: str = "pooling_type") -> Pooling | None:
        """What makes one row of a text's, None where the file does not say. Raises GGUFError for a kind without name.

        Numbers: enum llama_pooling_type in include/llama.h of llama.cpp.
        """
        if f"{self.architecture}.{key}" not in self._metadata:
            return None
        kind = self.count(key, least=0)
        if kind >= len(POOLINGS):
            raise GGUFError(f"{self.architecture}.{key} is {kind}; ggufpy knows 0 to {len(POOLINGS) - 1}")
        return POOLINGS[kind]


def _short(value: object) -> str:
    """A metadata value as it stands in an error: on one line, not too long."""
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def vocabulary_of(tensors: TensorTable) -> int:
    """Rows of the embedding. Raises GGUFError if there is none."""
    if "token_embd.weight" not in tensors or len(tensors["token_embd.weight"].shape) != 2:
        raise GGUFError("tensor token_embd.weight is missing or not a matrix")
    return int(tensors["token_embd.weight"].shape[0])


def _plain(shape: tuple[int, ...]) -> tuple[int, ...]:
    """A shape without dimensions of 1 at its beginning, but for the last dimension."""
    first = next((i for i, size in enumerate(shape[:-1]) if size != 1), len(shape) - 1)
    return tuple(shape[max(first, 0) :])


class Inventory:
    """Hands out a file's tensors to a plan and checks their shapes; `finish` refuses what nobody asked for."""

    def __init__(self, table: TensorTable) -> None:
        self._table = table
        self._used: set[str] = set()

    def __contains__(self, name: str) -> bool:
        return name in self._table

    @property
    def tensors(self) -> TensorTable:
        """All there are."""
        return self._table

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor that is there."""
        return tuple(self._table[name].shape)

    def weight(self, name: str, *shape: int) -> Weight:
        """A tensor that must be there. Raises GGUFError if it is missing, has another shape or holds whole numbers.

        (1, n) is (n,): dimensions of 1 at the end of ggml's order, the beginning of this one, say nothing.
        """
        if name not in self._table:
            raise GGUFError(f"tensor {name} is missing (shape {shape} expected)")
        if _plain(self._table[name].shape) != _plain(shape):
            raise GGUFError(f"tensor {name} has shape {tuple(self._table[name].shape)}; {shape} expected")
        kind = self._table[name].type
        if quants.get(kind).whole:
            raise GGUFError(f"tensor {name} is {kind}, whole numbers, where weights are due; convert the model again")
        self._used.add(name)
        return Weight(name, shape)

    def rows(self, name: str) -> int:
        """Rows of a matrix that is there. Raises GGUFError for what is no matrix."""
        shape = tuple(self._table[name].shape)
        if len(shape) != 2:
            raise GGUFError(f"tensor {name} has shape {shape}; a matrix is expected")
        return int(shape[0])

    def optional(self, name: str, *shape: int) -> Weight | None:
        return self.weight(name, *shape) if name in self._table else None

    def values(self, name: str, *shape: int) -> NDArray[Any]:
        """A small tensor's numbers, wanted while planning."""
        self.weight(name, *shape)
        return self._table[name].to_numpy()

    def skip_layers(self, first: int) -> None:
        """Has `finish` not miss the layers from `first` on, which the plan leaves out (nextn)."""
        for name in self._table:
            number = name.removeprefix("blk.").partition(".")[0]
            if name.startswith("blk.") and number.isascii() and number.isdigit() and int(number) >= first:
                self._used.add(name)

    def finish(self) -> None:
        """Raises GGUFError if the file has tensors that the plan does not use."""
        left = sorted(set(self._table) - self._used)
        if left:
            more = f" and {len(left) - 4} more" if len(left) > 4 else ""
            raise GGUFError(f"tensors that this architecture does not use: {', '.join(map(shown, left[:4]))}{more}")
