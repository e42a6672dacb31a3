"""Tensors as callers give them: the shape and type of arrays and blocks, and their bytes. Checked, nothing copied."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ggufpy.errors import GGUFError
from ggufpy.format import blocktypes
from ggufpy.format.blocktypes import Layout
from ggufpy.format.header import Entry
from ggufpy.format.tensor import Tensor
from ggufpy.format.values import MAX_DIMS, Blocks, TensorInfo, check_name, shown
from ggufpy.support import checks

DIMENSION_MAX = 2**63 - 1

Data = bytes | bytearray | memoryview | NDArray[Any]


def shape_and_type(value: NDArray[Any] | Blocks | Tensor, name: str) -> tuple[tuple[int, ...], str]:
    """What a tensor is, given as an array, as blocks, or as one of an open file. Raises GGUFError for what is none."""
    if isinstance(value, Tensor):
        return value.shape, value.type
    if isinstance(value, Blocks):
        return _blocks_shape(value, name), value.type
    if not isinstance(value, (np.ndarray, np.generic)):
        raise GGUFError(f"tensor {shown(name)}: a {type(value).__name__} is not an array, Blocks or Tensor")
    layout = blocktypes.PLAIN_DTYPE.get(value.dtype.newbyteorder("="))
    if layout is None:
        known = ", ".join(str(d) for d in blocktypes.PLAIN_DTYPE)
        raise GGUFError(
            f"tensor {shown(name)}: GGUF has no type for {value.dtype} ({known}); convert it, or give Blocks"
        )
    return value.shape, layout.name


def _blocks_shape(value: Blocks, name: str) -> tuple[int, ...]:
    """The shape of a tensor given as blocks, from its bytes where it is not said."""
    data = value.data
    if not isinstance(data, np.ndarray) or data.dtype != np.uint8:
        raise GGUFError(f"tensor {shown(name)}: Blocks take an array of uint8")
    if value.shape is not None:
        return value.shape
    layout = blocktypes.by_name(value.type)
    if not data.ndim or data.shape[-1] % layout.nbytes:
        raise GGUFError(
            f"tensor {shown(name)}: blocks of shape {data.shape} are not rows of whole {layout.name} blocks "
            f"of {layout.nbytes} bytes"
        )
    return (*data.shape[:-1], data.shape[-1] // layout.nbytes * layout.weights)


def measured(info: TensorInfo) -> tuple[tuple[int, ...], Layout, int]:
    """Shape, type and bytes of a declared tensor, checked."""
    try:
        layout = blocktypes.by_name(info.type)
        shape = tuple(checks.items("shape", info.shape, "a tuple of whole numbers"))
        if len(shape) > MAX_DIMS:
            raise GGUFError(f"shape {list(shape)} has more than {MAX_DIMS} dimensions")
        extent = layout.nbytes
        for n in shape:
            if isinstance(n, bool) or not isinstance(n, (int, np.integer)) or n < 0:
                raise GGUFError(f"shape {list(shape)} must be of whole numbers from 0")
            extent *= max(int(n), 1)
        if extent > DIMENSION_MAX:
            raise GGUFError(f"shape {list(shape)} is beyond 64 bits")
        shape = tuple(int(n) for n in shape)
        return shape, layout, blocktypes.total_bytes(layout, shape)
    except GGUFError as e:
        raise GGUFError(f"tensor {shown(info.name)}: {e}") from None


def as_bytes(data: Data, layout: Layout, name: str) -> NDArray[np.uint8]:
    """Data as flat uint8 in little-endian layout."""
    if not isinstance(data, np.ndarray):
        try:
            return np.frombuffer(data, np.uint8)
        except (TypeError, ValueError, BufferError):
            what = checks.shown(data)
            raise GGUFError(f"tensor {shown(name)}: {what} are no data; bytes or an array are wanted") from None
    if data.dtype == np.uint8:
        return np.ascontiguousarray(data).reshape(-1)
    if layout.dtype is None or data.dtype.newbyteorder("=") != np.dtype(layout.dtype):
        raise GGUFError(f"tensor {shown(name)}: data of {data.dtype} are not {layout.name}")
    return np.ascontiguousarray(data, data.dtype.newbyteorder("<")).reshape(-1).view(np.uint8)


def in_memory(name: str, value: NDArray[Any] | Blocks | Tensor) -> Tensor:
    """A tensor whose bytes are those of an array or of blocks. Raises GGUFError for bytes that its shape does not take.

    Nothing is copied but arrays that are not contiguous or not little-endian.
    """
    check_name(name, "tensor name")
    if isinstance(value, Tensor):
        return Tensor(name, *value.parts)
    shape, layout, nbytes = measured(TensorInfo(name, *shape_and_type(value, name)))
    data = as_bytes(value.data if isinstance(value, Blocks) else np.asarray(value), layout, name)
    if data.size != nbytes:
        raise GGUFError(f"tensor {shown(name)}: {data.size} bytes, but its shape takes {nbytes}")
    return Tensor(name, Entry(shape, layout, nbytes, 0), data.data.toreadonly(), "little")
