"""What formats share in reading config.json and in finding the tensors of a module."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from ggufpy.convert.safetensors import Stored
from ggufpy.errors import GGUFError
from ggufpy.format.rows import Rows, Transposed
from ggufpy.format.values import shown
from ggufpy.support import checks
from ggufpy.support.records import dataclass

Tensors = Mapping[str, Stored]
FLOATS = ("F16", "BF16", "F32")
WORDS = ("I32", "U32")
_CONV1D = {"gpt2": ("c_attn", "c_proj", "c_fc", "q_attn")}  # layers whose unquantised weights are (in, out)


def said(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """quantization_config of config.json, or of its text half; an empty one where there is none."""
    for part in (config, config.get("text_config"), config.get("llm_config")):
        inner = part.get("quantization_config") if isinstance(part, Mapping) else None
        if isinstance(inner, Mapping):
            return inner
    return {}


def method(config: Mapping[str, Any]) -> str:
    """quant_method in lower case, "" where there is none."""
    name = said(config).get("quant_method")
    return name.lower() if isinstance(name, str) else ""


def number(settings: Mapping[str, Any], names: str, default: int) -> int:
    """A whole number, which may be -1, of the first of several names, "w_bit|bits", that is there."""
    for name in names.split("|"):
        if settings.get(name) is not None:
            return checks.whole(f"config.json: quantization_config.{name}", settings[name], -1)
    return default


def text(settings: Mapping[str, Any], names: str, default: str) -> str:
    """A text in lower case of the first of several names that is there."""
    for name in names.split("|"):
        if settings.get(name) is not None:
            return checks.text(f"config.json: quantization_config.{name}", settings[name]).lower()
    return default


def refuse(what: str, value: object, known: Collection[object]) -> GGUFError:
    """For a setting that nothing here knows."""
    return GGUFError(
        f"config.json: quantization_config.{what} is {checks.shown(value)}; ggufpy knows {', '.join(map(str, known))}"
    )


@dataclass(frozen=True)
class Module:
    """The tensors of one quantised layer by the endings of their names."""

    name: str
    parts: Mapping[str, Stored]

    def get(self, part: str, dtypes: Sequence[str], shape: tuple[int | None, ...]) -> Stored:
        """A tensor of one of `dtypes` whose dimensions are `shape`, where these are not None. GGUFError otherwise."""
        stored = self.parts[part]
        full = shown(f"{self.name}.{part}")
        if stored.dtype not in dtypes:
            raise GGUFError(f"tensor {full} is {stored.dtype}; it must be {' or '.join(dtypes)}")
        fits = len(stored.shape) == len(shape) and all(
            b is None or a == b for a, b in zip(stored.shape, shape, strict=True)
        )
        if not fits or 0 in stored.shape:
            wanted = ", ".join("n" if n is None else str(n) for n in shape)
            raise GGUFError(f"tensor {full} has the shape {list(stored.shape)}; it must be [{wanted}]")
        return stored

    def wrong(self, why: str) -> GGUFError:
        """For a module whose tensors do not fit each other."""
        return GGUFError(f"module {shown(self.name)}: {why}")


def modules(
    tensors: Tensors, main: str, needed: Collection[str], optional: Collection[str] = ()
) -> tuple[list[Module], dict[str, Rows]]:
    """Modules that have a tensor with the ending `main`, and all other tensors.

    Raises GGUFError where one of the `needed` is missing, where `needed` or `optional` ones are without their `main`,
    and where a module's weight is there twice.
    """
    layers: dict[str, dict[str, Stored]] = {}
    rest: dict[str, Rows] = {}
    endings = {main, *needed, *optional}
    for name, stored in tensors.items():
        base, _, ending = name.rpartition(".")
        if ending in endings and base:
            layers.setdefault(base, {})[ending] = stored
        else:
            rest[name] = stored
    for base, parts in layers.items():
        missing = sorted({main, *needed} - set(parts))
        if missing:
            raise GGUFError(f"tensor {shown(f'{base}.{missing[0]}')} is missing from the checkpoint")
        if f"{base}.weight" in rest:
            raise GGUFError(f"the checkpoint has both {shown(f'{base}.weight')} and {shown(f'{base}.{main}')}")
    return [Module(base, parts) for base, parts in layers.items()], rest


def as_unquantised(config: Mapping[str, Any], name: str, rows: Rows) -> Rows:
    """The weight (out, in) of module `name` the way round that a checkpoint of floats has it."""
    layers = _CONV1D.get(str(config.get("model_type")), ())
    return Transposed(rows) if name.rpartition(".")[2] in layers else rows
