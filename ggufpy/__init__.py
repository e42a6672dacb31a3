"""Run, read and write GGUF language models, fast on the CPU you have, with nothing to compile.

The names below are the whole public interface. Each is imported when it is first used, so that
`import ggufpy` costs nothing that a program does not need.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ggufpy.support.lazy import lazy

if TYPE_CHECKING:
    from ggufpy.errors import GGUFError
    from ggufpy.format import Blocks, GGUFFile, TensorInfo, Typed, Writer, open, write
    from ggufpy.generate.sampling import Sampling
    from ggufpy.llm import Llama
    from ggufpy.quants import dequantize, quantize
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
    "Sampling": "generate.sampling",
    "TensorInfo": "format",
    "Typed": "format",
    "Writer": "format",
    "dequantize": "quants",
    "load_tokenizer": "tokenizers",
    "open": "format",
    "quantize": "quants",
    "write": "format",
}


__getattr__ = lazy(__name__, _HOME)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
