"""The names of llama-cpp-python's `llama_cpp.llama_cache`: what keeps evaluated prompts for later calls."""

from __future__ import annotations

from ggufpy.api.caches import BaseLlamaCache, LlamaCache, LlamaDiskCache, LlamaRAMCache

__all__ = ["BaseLlamaCache", "LlamaCache", "LlamaDiskCache", "LlamaRAMCache"]
