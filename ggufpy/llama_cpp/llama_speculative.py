"""The names of llama-cpp-python's `llama_cpp.llama_speculative`: functions that draft tokens, for `draft_model`."""

from __future__ import annotations

from ggufpy.generate.draft_functions import LlamaDraftModel, LlamaPromptLookupDecoding

__all__ = ["LlamaDraftModel", "LlamaPromptLookupDecoding"]
