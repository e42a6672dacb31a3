"""bitsandbytes: 4-bit codes of a table (NF4, FP4) with the largest number of each block, and rows of int8.

In, of 4 bits, for a matrix of n numbers that are counted through
    weight                                 bytes (n / 2, 1) of any dtype: two codes, the first in the high four bits
    weight.absmax                          F32 (blocks), or U8 (blocks) where they are quantised, too
    weight.quant_map                       F32 (16), what codes stand for
    weight.nested_absmax, nested_quant_map F32 (blocks / 256), F32 (256): absmax = map[code] · nested_absmax + offset
    weight.quant_state.bitsandbytes__nf4   JSON as U8: shape, blocksize, quant_type, nested_blocksize, nested_offset
Out: weight = map[code] · absmax in float32, as the library has it before it is rounded to the dtype of quant_state
(bitsandbytes 0.50, `dequantize_4bit`, `dequantize_blockwise`).

In, of 8 bits: weight I8 (out, in), SCB F32 (out), weight_format U8, which must be 0: rows as they are.
Out: weight · SCB · 0.007874015718698502 in float32, each step rounded (`int8_vectorwise_dequant`). Q8_0 with the same
codes is the nearest: its scale is rounded to f16.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from functools import cached_property
from math import prod
from typing import Any

import numpy as np

from ggufpy.convert.safetensors import DIMS_MAX, Stored
from ggufpy.errors import GGUFError
from ggufpy.format.rows import Floats, Rows
from ggufpy.format.values import shown
from ggufpy.support import checks
from ggufpy.support.records import dataclass

from ._groups import Grouped, Groups
from ._packed import Codes
from ._quantised import Decoded
from ._scaled import wide
from ._settings import FLOATS, Module, Tensors, as_unquantised, method

NAME = "bitsandbytes"
STATE = "quant_state.bitsandbytes__"
_TABLES = ("nf4", "fp4")
_PARTS = ("absmax", "quant_map", "nested_absmax", "nested_quant_map")
_STATE_MAX = 1 << 16  # bytes of JSON
_A_STEP = np.float32(7.874015718698502e-3)  # 1 / 127, as the library has it


def claims(config: Mapping[str, Any], tensors: Tensors) -> bool:
    """Says quant_method "bitsandbytes"; or has tensors that no other format has."""
    return method(config) == "bitsandbytes" or any(f".{STATE}" in name for name in tensors)


def decode(config: Mapping[str, Any], tensors: Tensors) -> Mapping[str, Rows]:
    """The weights by their names, the way round that they have in checkpoints of floats, but for GPT-2's, which the
    library turns. GGUFError for settings that are not known and tensors that do not fit."""
    made: dict[str, Rows] = {}
    used: set[str] = set()
    for name in tensors:
        if f".{STATE}" in name:
            base = name[: name.index(f".{STATE}")]
            parts = _parts(tensors, base, used)
            made[base] = as_unquantised(config, base.rpartition(".")[0], _four(base, parts, name, tensors[name]))
            used.add(name)
        elif name.endswith(".SCB"):
            base = name.removesuffix(".SCB")
            made[f"{base}.weight"] = as_unquantised(config, base, _eight(tensors, base))
            used |= {name, f"{base}.weight", f"{base}.weight_format"}
    for name, stored in tensors.items():
        ending = name.rpartition(".")[2]
        if name in used:
            continue
        if ending in _PARTS or (ending == "weight" and stored.dtype in ("I8", "U8")):
            raise GGUFError(f"tensor {shown(name)} has no quant_state or SCB beside it, which say what it means")
        if ending != "weight_format":
            made[name] = stored
    return made


def _parts(tensors: Tensors, base: str, used: set[str]) -> Mapping[str, Stored]:
    """The tensors of a 4-bit matrix; absmax, quant_map and its codes ("") must be there."""
    there = {part: tensors[f"{base}.{part}"] for part in _PARTS if f"{base}.{part}" in tensors}
    if base in tensors:
        there[""] = tensors[base]
    for part in ("", "absmax", "quant_map"):
        if part not in there:
            raise GGUFError(f"tensor {shown(f'{base}.{part}'.rstrip('.'))} is missing from the checkpoint")
    used |= {f"{base}.{part}".rstrip(".") for part in there}
    return there


@dataclass(frozen=True)
class _State:
    """What JSON says of a 4-bit matrix."""

    shape: tuple[int, ...]
    block: int
    nested_block: int
    offset: float


def _state(name: str, stored: Stored) -> _State:
    """JSON as bytes, checked."""
    kind = name.rpartition(STATE)[2]
    if kind not in _TABLES:
        raise GGUFError(f"tensor {shown(name)}: ggufpy knows nf4 and fp4")
    if stored.dtype != "U8" or not 0 < stored.size <= _STATE_MAX:
        raise GGUFError(f"tensor {shown(name)} is {stored.dtype} {list(stored.shape)}; JSON as U8 is wanted")
    try:
        said = json.loads(stored.array.tobytes().decode("utf-8"))
    except (ValueError, RecursionError):
        raise GGUFError(f"tensor {shown(name)} is not valid JSON") from None
    said = checks.mapping(f"tensor {shown(name)}", said)
    shape = said.get("shape")
    numbers = isinstance(shape, list) and all(type(n) is int and 0 < n < 1 << 48 for n in shape)
    if not isinstance(shape, list) or not numbers or not 2 <= len(shape) <= DIMS_MAX:
        raise GGUFError(f"tensor {shown(name)}: shape is {checks.shown(shape)}; sizes of a matrix are wanted")
    if said.get("quant_type", kind) != kind:
        raise GGUFError(f"tensor {shown(name)}: quant_type is {checks.shown(said['quant_type'])}")
    return _State(
        tuple(shape),
        checks.whole(f"tensor {shown(name)}: blocksize", said.get("blocksize"), 1),
        checks.whole(f"tensor {shown(name)}: nested_blocksize", said.get("nested_blocksize", 256), 1),
        checks.number(f"tensor {shown(name)}: nested_offset", said.get("nested_offset", 0.0)),
    )


def _four(base: str, parts: Mapping[str, Stored], name: str, stored: Stored) -> Rows:
    state, codes = _state(name, stored), parts[""]
    count = prod(state.shape)
    blocks = -(-count // state.block)
    module = Module(base, parts)
    if codes.size != -(-count // 2):
        raise module.wrong(f"it has {codes.size:,} bytes of codes, and {list(state.shape)} takes {-(-count // 2):,}")
    module.get("quant_map", ("F32",), (16,))
    if "nested_absmax" not in parts:
        module.get("absmax", FLOATS, (blocks,))
    else:
        if "nested_quant_map" not in parts:
            raise GGUFError(f"tensor {shown(f'{base}.nested_quant_map')} is missing from the checkpoint")
        module.get("absmax", ("U8",), (blocks,))
        module.get("nested_absmax", ("F32",), (-(-blocks // state.nested_block),))
        module.get("nested_quant_map", ("F32",), (256,))
    return FourBits(state, parts)


@dataclass(frozen=True, eq=False)
class FourBits(Decoded):
    """A tensor of 4-bit codes."""

    state: _State
    tensors: Mapping[str, Stored]

    @property
    def shape(self) -> tuple[int, ...]:
        return self.state.shape

    @property
    def parts(self) -> Iterable[Stored]:
        return self.tensors.values()

    @property
    def near(self) -> Rows | None:
        return self.in_eights

    def floats(self, start: int, stop: int) -> Floats:
        first, last = start * self.columns, stop * self.columns
        raw = self.tensors[""].array.reshape(-1).view(np.uint8)[first // 2 : -(-last // 2)]
        codes = np.stack([raw >> 4, raw & 15], axis=1).reshape(-1)[first % 2 : first % 2 + last - first]
        low, high = first // self.state.block, -(-last // self.state.block)
        largest = np.repeat(self._absmax(low, high), self.state.block)[first - low * self.state.block :]
        with np.errstate(invalid="ignore", over="ignore"):  # what is not finite is refused when written
            values: Floats = self._table[codes] * largest[: len(codes)]
        return values.reshape(-1, self.columns)

    @cached_property
    def _table(self) -> Floats:
        return np.array(self.tensors["quant_map"].array, np.float32)

    def _absmax(self, start: int, stop: int) -> Floats:
        """Of some blocks, float32."""
        stored = self.tensors["absmax"]
        if "nested_absmax" not in self.tensors:
            return wide(stored.array[start:stop], stored.dtype)
        outer = self.tensors["nested_absmax"].array[np.arange(start, stop) // self.state.nested_block]
        made: Floats = self.tensors["nested_quant_map"].array[stored.array[start:stop]] * outer
        made += np.float32(self.state.offset)
        return made


def _eight(tensors: Tensors, base: str) -> Rows:
    if f"{base}.weight" not in tensors:
        raise GGUFError(f"tensor {shown(f'{base}.weight')} is missing from the checkpoint")
    names = {part: f"{base}.{part}" for part in ("weight", "SCB", "weight_format")}
    parts = {part: tensors[name] for part, name in names.items() if name in tensors}
    module = Module(base, parts)
    weight = module.get("weight", ("I8",), (None, None))
    module.get("SCB", ("F32",), (weight.shape[0],))
    form = parts.get("weight_format")
    if form is not None and (form.dtype != "U8" or form.array.any()):
        raise module.wrong("its weight_format is not 0, rows as they are: save the model with a newer bitsandbytes")
    return EightBits(module)


@dataclass(frozen=True, eq=False)
class EightBits(Grouped):
    """A matrix of int8 with a scale for each row. Its codes are from 0 on, around 128."""

    module: Module
    bits = 8

    @property
    def shape(self) -> tuple[int, ...]:
        return self.module.parts["weight"].shape

    @property
    def parts(self) -> Iterable[Stored]:
        return self.module.parts.values()

    @property
    def groups(self) -> Groups:  # type: ignore[override]
        return self.columns

    def codes(self, start: int, stop: int) -> Codes:
        codes: Codes = self.module.parts["weight"].array[start:stop].view(np.uint8) ^ np.uint8(128)
        return codes

    def scales(self, start: int, stop: int) -> Floats:
        made: Floats = self._largest(start, stop) * _A_STEP
        return made

    def zeros(self, start: int, stop: int) -> Floats:
        return np.full((stop - start, 1), 128, np.float32)

    def floats(self, start: int, stop: int) -> Floats:
        numbers: Floats = self.module.parts["weight"].array[start:stop].astype(np.float32)
        numbers *= self._largest(start, stop)
        numbers *= _A_STEP
        return numbers

    def _largest(self, start: int, stop: int) -> Floats:
        some: Floats = self.module.parts["SCB"].array[start:stop, None]
        return some

    @property
    def exact(self) -> Rows | None:
        return None  # two roundings, and a scale of 24 bits
