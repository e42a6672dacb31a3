"""config.json of a checkpoint, with checked values by the names that different classes have for them.

In: what the file says. Out: numbers, texts and lists of the right kind, or one line that names the key.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ggufpy.errors import GGUFError
from ggufpy.support import checks

from .base import LARGEST

MOST = 1 << 13  # layers, and experts of one: rules are made for each
REQUIRED: Any = object()


class HfConfig:
    """config.json with checked values. Several names, "n_layer|num_layers", stand for the first that is there."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self.values = values

    def __contains__(self, names: str) -> bool:
        return self.get(names) is not None

    def get(self, names: str) -> Any:
        """The value of the first name that has one; None (null, too) where none has."""
        return next((self.values[name] for name in names.split("|") if self.values.get(name) is not None), None)

    def _value(self, names: str, default: Any) -> Any:
        value = self.get(names)
        if value is not None:
            return value
        if default is REQUIRED:
            raise GGUFError(f"config.json has no {names.replace('|', ' or ')}, which this architecture needs")
        return default

    def count(self, names: str, default: Any = REQUIRED, least: int = 1) -> int:
        """A whole number from `least` on."""
        value = self._value(names, default)
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= LARGEST:
            raise GGUFError(f"config.json: {first_name(names)} is {checks.shown(value)}; it must be a whole number "
                            f"from {least} to {LARGEST}")  # fmt: skip
        return value

    def number(self, names: str, default: Any = REQUIRED) -> float:
        """A finite number."""
        return checks.number(f"config.json: {first_name(names)}", self._value(names, default))

    def flag(self, names: str, default: bool = False) -> bool:
        """True or false."""
        return checks.flag(f"config.json: {first_name(names)}", self._value(names, default))

    def text(self, names: str, default: Any = REQUIRED) -> str:
        """A text."""
        return checks.text(f"config.json: {first_name(names)}", self._value(names, default))

    def items(self, names: str, default: Any = REQUIRED) -> list[Any]:
        """A list."""
        value = self._value(names, default)
        if not isinstance(value, list | tuple):
            raise GGUFError(f"config.json: {first_name(names)} is {checks.shown(value)}; it must be a list")
        return list(value)

    def mapping(self, names: str) -> Mapping[str, Any]:
        """An object; one without entries where there is none."""
        return checks.mapping(f"config.json: {first_name(names)}", self._value(names, {}))

    def part(self, names: str) -> HfConfig:
        """An object within, to be read alike."""
        return HfConfig(self.mapping(names))

    def replaced(self, **values: Any) -> HfConfig:
        """With other values."""
        return HfConfig({**self.values, **values})

    @property
    def layers(self) -> int:
        """How many layers there are, MOST at most."""
        layers = self.count("num_hidden_layers|n_layer|n_layers|num_layers")
        if layers > MOST:
            raise GGUFError(f"config.json says that there are {layers} layers, more than any model has")
        return layers

    @property
    def width(self) -> int:
        """Of a row of activations."""
        return self.count("hidden_size|n_embd|d_model|dim")

    @property
    def heads(self) -> int:
        """Query heads."""
        return self.count("num_attention_heads|n_head|n_heads")

    @property
    def shared(self) -> int:
        """Key/value heads."""
        return self.count("num_key_value_heads|n_kv_heads", self.heads)

    @property
    def head_length(self) -> int:
        """The width of a head."""
        return self.count("head_dim", max(self.width // self.heads, 1))

    def rope(self, layers: str = "full_attention") -> HfConfig:
        """What is said of rotary positions: rope_type, rope_theta, factor and so on, in the names of transformers 5.

        `layers` chooses of those that differ by type of layer. Older files have rope_theta beside rope_scaling.
        """
        said = dict(self.mapping("rope_parameters|rope_scaling"))
        if isinstance(said.get(layers), Mapping):
            said = dict(said[layers])
        elif any(isinstance(value, Mapping) for value in said.values()):
            said = {}
        if "rope_type" not in said and "type" in said:
            said["rope_type"] = said["type"]
        for name, names in _BESIDE.items():
            if said.get(name) is None and names in self:
                said[name] = self.get(names)
        return HfConfig(said)


# What may stand beside rope_scaling, and what other classes call it.
_BESIDE = {
    "rope_theta": "rope_theta", "partial_rotary_factor": "partial_rotary_factor|rope_pct|rope_percent",
    "original_max_position_embeddings": "original_max_position_embeddings",
}  # fmt: skip


def first_name(names: str) -> str:
    """Of several names, "n_layer|num_layers", the one that is written."""
    return names.split("|")[0]
