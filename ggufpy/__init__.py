"""Run, read and write GGUF language models, fast on the CPU you have, with nothing to compile.

The names below are the whole public interface. Each is imported when it is first used, so that
`import ggufpy` costs nothing that a program does not need.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ggufpy.errors import GGUFError
    from ggufpy.format import Blocks, GGUFFile, TensorInfo, Typed, Writer, open, write
    from ggufpy.llm import Llama
    from ggufpy.quants import dequantize, quantize
    from ggufpy.sampling import Sampling
    from ggufpy.tokenizers import load_tokenizer

__version__ = "0.1.0"

__all__ = [
    "Blocks",
    "GGUFError",
    "GGUFFile",
    "Llama",
    "Sampling",
    "TensorInfo",
    "Typed",
    "Writer",
    "dequantize",
    "load_tokenizer",
    "open",
    "quantize",
    "write",
]

_HOME = {
    "Blocks": "format",
    "GGUFError": "errors",
    "GGUFFile": "format",
    "Llama": "llm",
    "Sampling": "sampling",
    "TensorInfo": "format",
    "Typed": "format",
    "Writer": "format",
    "dequantize": "quants",
    "load_tokenizer": "tokenizers",
    "open": "format",
    "quantize": "quants",
    "write": "format",
}


def __getattr__(name: str) -> object:
    """Import the module that holds a public name, when the name is first asked for (PEP 562)."""
    if name not in _HOME:
        raise AttributeError(f"module 'ggufpy' has no attribute {name!r}")
    from importlib import import_module

    value: object = getattr(import_module(f"ggufpy.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
