"""What names a kernel: its source module, in one of HOMES, and the constants it is built for. Needs no Numba."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np

from ggufpy.simd.isa import Level, without_tiles

ROOT = Path(__file__).resolve().parent.parent
HOMES = ("backends/cpu/kernels", "quants/kernels", "format/kernels")  # folders of kernel sources, whose names differ
TILED = frozenset({"attention_tiles", "matmul_tiles"})  # sources that use tiles where a level has them


@dataclass(frozen=True)
class Kernel:
    """A kernel source (module name) and its compile-time constants, in a fixed order."""

    source: str
    constants: tuple[tuple[str, int | str], ...] = ()

    @property
    def symbol(self) -> str:
        """A C name that is unique within a level."""
        return "_".join(["ggufpy", self.source, *(f"{k}{v}" for k, v in self.constants)])

    @property
    def parameters(self) -> Mapping[str, Any]:
        return dict(self.constants)


class KernelSource(Protocol):
    """A kernel module: ARGS is the structured dtype its first argument points to."""

    ARGS: np.dtype[Any]
    build: Callable[[Any, Mapping[str, Any]], Callable[..., None]]


def code_level(of: Kernel, level: Level) -> Level:
    """The level that a kernel is compiled for where `level` is to run: its code is the same for both."""
    return level if of.source in TILED or of.parameters.get("what") == "tiles" else without_tiles(level)


def kernel(source: str, **constants: int | str) -> Kernel:
    return Kernel(source, tuple(sorted(constants.items())))


def load_source(of: Kernel) -> KernelSource:
    return _source(of.source)


@functools.cache
def _source(name: str) -> KernelSource:
    """Raises ModuleNotFoundError if there is no such kernel."""
    home = next((home for home in HOMES if (ROOT / home / f"{name}.py").exists()), HOMES[0])
    return cast(KernelSource, importlib.import_module(f"ggufpy.{home.replace('/', '.')}.{name}"))


def struct(*fields: str) -> np.dtype[Any]:
    """A structured dtype of 8-byte integers; "name:f4" makes a field a float32.

    A name says what an integer is. An address ends in `_ptr`; a count begins with `n_`; a distance in bytes, from row
    to row or part to part, ends in `_stride`; a size in bytes ends in `_bytes`; a flag begins with `is_` or `has_`, or
    is a verb (`adds`). Plain indices and kinds (`first`, `window`) have a plain name.
    """
    items = [(f.split(":")[0], f.split(":")[1] if ":" in f else "i8") for f in fields]
    return np.dtype(items, align=True)
