"""The GGUF container: reading, checking and writing it. Knows no model.

`open` maps a file and checks its whole header; `write` and `Writer` leave a whole file or none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ggufpy.format.metadata import Metadata, MissingKeyError
from ggufpy.format.reader import GGUFFile, Tensors, from_bytes, open
from ggufpy.format.strings import StringArray
from ggufpy.format.tensor import Tensor
from ggufpy.format.values import Blocks, TensorInfo, Typed
from ggufpy.support.lazy import lazy

if TYPE_CHECKING:
    from ggufpy.format.atomic import AtomicFile
    from ggufpy.format.memory import ArraySource
    from ggufpy.format.writer import Writer, write

__all__ = [
    "ArraySource",
    "AtomicFile",
    "Blocks",
    "GGUFFile",
    "Metadata",
    "MissingKeyError",
    "StringArray",
    "Tensor",
    "TensorInfo",
    "Tensors",
    "Typed",
    "Writer",
    "from_bytes",
    "open",
    "write",
]

# 20 ms that no reader waits for.
__getattr__ = lazy(__name__, {"ArraySource": "memory", "AtomicFile": "atomic", "Writer": "writer", "write": "writer"})
