"""What tests of whole models on a GPU share: cards that are the CPU, and small models with layers there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from engine import write_model
from gpu_shim import ShimDevice

from ggufpy import format as gguf
from ggufpy import runtime
from ggufpy.backends.options import EngineOptions
from ggufpy.runtime.engine import Engine

CONTEXT = 300
SIZES = {
    "block_count": 3, "context_length": CONTEXT, "embedding_length": 72, "attention.head_count": 4,
    "attention.head_count_kv": 2, "attention.key_length": 32, "attention.value_length": 32, "feed_forward_length": 104,
}  # fmt: skip
TEXT = np.random.default_rng(3).integers(0, 61, CONTEXT).tolist()


class ShimDevices:
    """Two cards."""

    def __init__(self, level: str = "sm_80", memory: int = 1 << 32) -> None:
        self._level, self._memory = level, memory
        self.made: list[ShimDevice] = []

    def why_none(self) -> str:
        return ""

    def count(self) -> int:
        return 2

    def open(self, index: int) -> Any:
        self.made.append(ShimDevice(self._level, self._memory))
        return self.made[-1]


def small_model(folder: Path, type_name: str = "Q8_0", **changes: Any) -> Path:
    """A llama model of three layers, whose widths fill no blocks where the type allows it."""
    wide = {} if type_name in ("F32", "F16", "BF16") else {"embedding_length": 96, "feed_forward_length": 160}
    return write_model(folder / f"{type_name}.gguf", {**SIZES, **wide, **changes}, type_name=type_name)


def engine_of(path: Path, layers: Any = 0, devices: Any = None, **more: Any) -> Engine:
    """A model with layers on a card, of two threads and two texts."""
    options = EngineOptions(n_threads=2, n_gpu_layers=layers, **{"n_parallel": 2, "n_batch": 64, **more})
    with gguf.open(path) as file:
        return runtime.load(file, options, devices=devices or ShimDevices())


def spread(exact: Any, found: Any) -> float:
    """Root of the mean squared error over the spread of what is exact."""
    return float(np.sqrt(((np.asarray(found, np.float64) - exact) ** 2).mean()) / np.std(exact))
