"""A pytest plugin: tests of kernels, which are for a GPU that is the CPU, on a card, and with other random numbers.

    GGUFPY_SEED=7 PYTHONPATH=tools python -m pytest -p gpu.card tests/test_gpu_ops.py

`gpu_shim.ShimDevice` becomes a device through CuPy. What is random in tests is drawn with GGUFPY_SEED beside their own
seeds. Tests of the shim's own strictness are left out: a card does not look at what kernels must not touch.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent / "tests"))

import gpu_shim

from ggufpy.backends.gpu.cuda import CudaDevice, CudaMemory
from ggufpy.errors import GGUFError

_true_rng = np.random.default_rng


class Card(CudaDevice):
    """The first device, with as little memory as a test says. Its level, and the order of its blocks, are its own."""

    def __init__(
        self, level: str = "", memory: int = 1 << 32, order: str = "", seed: int = 0, strict: bool | None = None
    ) -> None:
        super().__init__(0)
        self.facts = replace(self.facts, name="shim")  # as tests call it
        self._limit = memory

    def free(self) -> int:
        held = sum(each.nbytes for each in self._memory if each.is_open)
        return min(self._limit - held, super().free())

    def allocate(self, nbytes: int, about: str) -> CudaMemory:
        if nbytes > self.free():
            raise GGUFError(f"{about} takes {nbytes} bytes of device memory, of which {self.free()} are free")
        return super().allocate(nbytes, about)


def _fresh(seed: Any = None) -> np.random.Generator:
    """Random numbers that differ from run to run, as GGUFPY_SEED does."""
    own = [seed] if isinstance(seed, int) else list(seed or [0])
    return _true_rng([*own, int(os.environ.get("GGUFPY_SEED", "0"))])


def pytest_configure(config: pytest.Config) -> None:
    gpu_shim.ShimDevice = Card
    np.random.default_rng = _fresh


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Blocks and threads come in an order of the card's own, so one order is enough."""
    kept = [item for item in items if not _another_order(item)]
    config.hook.pytest_deselected(items=[item for item in items if item not in kept])
    items[:] = kept


def _another_order(item: pytest.Item) -> bool:
    spec = getattr(item, "callspec", None)
    values: Sequence[Any] = () if spec is None else list(spec.params.values())
    return any(value in gpu_shim.ORDERS[1:] for value in values if isinstance(value, str))
