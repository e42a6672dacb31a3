"""The names of llama-cpp-python's `llama_cpp.llama_speculative`: functions that draft tokens, for `draft_model`."""

from __future__ import annotations

from ggufpy.support.lazy import lazy

_HOME = dict.fromkeys(("LlamaDraftModel", "LlamaPromptLookupDecoding"), "generate.draft_functions")

__all__ = sorted(_HOME)

__getattr__ = lazy(__name__, _HOME, within="ggufpy")
