"""The names of llama-cpp-python's `llama_cpp.llama`; each comes from where ggufpy has it, when it is first used."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ggufpy.support.lazy import lazy

if TYPE_CHECKING:
    from ggufpy.api.caches import BaseLlamaCache, LlamaCache, LlamaDiskCache, LlamaRAMCache
    from ggufpy.api.lists import (
        LogitsProcessor,
        LogitsProcessorList,
        MinTokensLogitsProcessor,
        StoppingCriteria,
        StoppingCriteriaList,
    )
    from ggufpy.generate.draft_functions import LlamaDraftModel
    from ggufpy.generate.state import LlamaState
    from ggufpy.llama_cpp.llama_grammar import LlamaGrammar
    from ggufpy.llama_cpp.llama_tokenizer import BaseLlamaTokenizer, LlamaTokenizer
    from ggufpy.llm import Llama

__all__ = [
    "BaseLlamaCache",
    "BaseLlamaTokenizer",
    "Llama",
    "LlamaCache",
    "LlamaDiskCache",
    "LlamaDraftModel",
    "LlamaGrammar",
    "LlamaRAMCache",
    "LlamaState",
    "LlamaTokenizer",
    "LogitsProcessor",
    "LogitsProcessorList",
    "MinTokensLogitsProcessor",
    "StoppingCriteria",
    "StoppingCriteriaList",
]

_HOME = {
    "BaseLlamaCache": "api.caches",
    "BaseLlamaTokenizer": "llama_cpp.llama_tokenizer",
    "Llama": "llm",
    "LlamaCache": "api.caches",
    "LlamaDiskCache": "api.caches",
    "LlamaDraftModel": "generate.draft_functions",
    "LlamaGrammar": "llama_cpp.llama_grammar",
    "LlamaRAMCache": "api.caches",
    "LlamaState": "generate.state",
    "LlamaTokenizer": "llama_cpp.llama_tokenizer",
    "LogitsProcessor": "api.lists",
    "LogitsProcessorList": "api.lists",
    "MinTokensLogitsProcessor": "api.lists",
    "StoppingCriteria": "api.lists",
    "StoppingCriteriaList": "api.lists",
}

__getattr__ = lazy(__name__, _HOME, within="ggufpy")
