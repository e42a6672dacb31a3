"""The names of llama-cpp-python's `llama_cpp.llama_cache`: what keeps evaluated prompts for later calls."""

from __future__ import annotations

from ggufpy.support.lazy import lazy

_NAMES = ("BaseLlamaCache", "LlamaDiskCache", "LlamaRAMCache")

__all__ = sorted(("LlamaCache", *_NAMES))

_get = lazy(__name__, dict.fromkeys(_NAMES, "api.caches"), within="ggufpy")


def __getattr__(name: str) -> object:
    return _get("LlamaRAMCache" if name == "LlamaCache" else name)
