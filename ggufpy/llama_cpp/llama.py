"""The names of llama-cpp-python's `llama_cpp.llama`; each comes from where ggufpy has it, when it is first used."""

from __future__ import annotations

from ggufpy.support.lazy import lazy

_HOME = {
    "BaseLlamaCache": "api.caches",
    "BaseLlamaTokenizer": "llama_cpp.llama_tokenizer",
    "Llama": "llm",
    "LlamaCache": "llama_cpp.llama_cache",
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

__all__ = sorted(_HOME)

__getattr__ = lazy(__name__, _HOME, within="ggufpy")
