"""Weights in memory: what a packed matrix is, which kernels read and write it, and vectors. `packing.py` makes them."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from ggufpy import quants
from ggufpy.backends.cpu.kernels.layout import BLOCK, block_bytes
from ggufpy.errors import GGUFError
from ggufpy.jit.spec import Kernel, kernel
from ggufpy.models.source import SourceTensor
from ggufpy.quants.base import BlockType, FloatPanel, IntPanel
from ggufpy.support.records import dataclass

from .memory import Region


@dataclass(frozen=True)
class Matrix:
    """A packed matrix: `panels` × `blocks` of 32 columns; true sizes in `rows` and `columns`.

    Or the matrices of `experts`, one after the other, all of these sizes and with one multiplier.
    """

    panel: IntPanel | FloatPanel
    rows: int
    columns: int
    panels: int
    blocks: int
    multiplier: float
    memory: Region
    experts: int = 1

    @property
    def expert_bytes(self) -> int:
        """From one expert's panels to the next one's."""
        return self.memory.nbytes // self.experts

    def kernel(self, tokens: int) -> Kernel:
        """The matrix kernel that reads this panel format."""
        return matmul_kernel(self.panel, tokens)


def matmul_kernel(panel: IntPanel | FloatPanel, tokens: int) -> Kernel:
    if isinstance(panel, FloatPanel):
        return kernel("matmul_float", dtype=panel.dtype, tokens=tokens)
    return kernel("matmul_int", **_constants(panel), offset=panel.offset, tokens=tokens)


def expert_kernel(panel: IntPanel | FloatPanel) -> Kernel:
    """The kernel that reads matrices of experts in this panel format."""
    if isinstance(panel, FloatPanel):
        return kernel("expert_matmul", dtype=panel.dtype)
    return kernel("expert_matmul", **_constants(panel), offset=panel.offset)


def pack_kernel(kind: BlockType) -> Kernel:
    """The kernel that packs tensors of a type."""
    panel = kind.panel
    if isinstance(panel, FloatPanel):
        return kernel("pack_float", size=element_bytes(panel))
    if kind.packer == "lanes":
        return kernel("pack_blocks", type=kind.name.lower())
    return kernel("pack_int", **_constants(panel))


def _constants(panel: IntPanel) -> dict[str, int]:
    return {"bits": panel.bits, "group": panel.group, "has_min": int(panel.has_min)}


def element_bytes(panel: FloatPanel) -> int:
    """Bytes of a weight."""
    return 4 if panel.dtype == "f32" else 2


def packed_bytes(source: SourceTensor, lanes: int) -> int:
    """Bytes of a (rows, columns) or (experts, rows, columns) tensor in memory."""
    panel, (*experts, rows, columns) = quants.get(source.type).panel, source.shape
    panels, blocks = math.prod(experts) * -(-rows // lanes), -(-columns // BLOCK)
    if isinstance(panel, FloatPanel):
        return panels * blocks * BLOCK * lanes * element_bytes(panel)
    return panels * blocks * block_bytes(panel, lanes)


def vector_bytes(shape: tuple[int, ...]) -> int:
    """Bytes of (n,) or (experts, n) numbers in memory: float32, each n filled up to whole blocks."""
    *experts, count = shape
    return math.prod(experts) * -(-count // BLOCK) * BLOCK * 4


def vector(source: SourceTensor) -> NDArray[np.float32]:
    """A small tensor (norm weights, biases) as float32. Raises GGUFError if it is not finite."""
    values = np.asarray(source.to_numpy(), np.float32)
    if not np.all(np.isfinite(values)):
        raise GGUFError(f"tensor {source.name} has a value that is not finite")
    return values
