"""Run, read and write GGUF language models, fast on the CPU you have, with nothing to compile.

The names below are the whole public interface. Each is imported when it is first used, so that
`import ggufpy` costs nothing that a program does not need.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ggufpy.support.lazy import lazy
from ggufpy.support.version import __version__ as __version__

if TYPE_CHECKING:
    from ggufpy.api.caches import BaseLlamaCache, LlamaDiskCache, LlamaRAMCache
    from ggufpy.api.lists import LogitsProcessorList, MinTokensLogitsProcessor, StoppingCriteriaList
    from ggufpy.errors import GGUFError
    from ggufpy.format import Blocks, GGUFFile, TensorInfo, Typed, Writer, open, write
    from ggufpy.generate.draft_functions import LlamaDraftModel, LlamaPromptLookupDecoding
    from ggufpy.generate.sampling import Sampling
    from ggufpy.generate.state import LlamaState
    from ggufpy.grammar import Grammar
    from ggufpy.llama_cpp.llama_grammar import LlamaGrammar
    from ggufpy.llm import Llama
    from ggufpy.quants import dequantize, quantize
    from ggufpy.tokenizers import load_tokenizer

__all__ = [
    "BaseLlamaCache",
    "Blocks",
    "GGUFError",
    "GGUFFile",
    "Grammar",
    "Llama",
    "LlamaDiskCache",
    "LlamaDraftModel",
    "LlamaGrammar",
    "LlamaPromptLookupDecoding",
    "LlamaRAMCache",
    "LlamaState",
    "LogitsProcessorList",
    "MinTokensLogitsProcessor",
    "Sampling",
    "StoppingCriteriaList",
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
    "BaseLlamaCache": "api.caches",
    "Blocks": "format",
    "GGUFError": "errors",
    "GGUFFile": "format",
    "Grammar": "grammar",
    "Llama": "llm",
    "LlamaDiskCache": "api.caches",
    "LlamaDraftModel": "generate.draft_functions",
    "LlamaGrammar": "llama_cpp.llama_grammar",
    "LlamaPromptLookupDecoding": "generate.draft_functions",
    "LlamaRAMCache": "api.caches",
    "LlamaState": "generate.state",
    "LogitsProcessorList": "api.lists",
    "MinTokensLogitsProcessor": "api.lists",
    "Sampling": "generate.sampling",
    "StoppingCriteriaList": "api.lists",
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
