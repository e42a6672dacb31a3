"""`llama_cpp` under another name: what programs import from llama-cpp-python 0.3.36, over `ggufpy.Llama`.

    import ggufpy.llama_cpp as llama_cpp

Modules have llama-cpp-python's names (`llama_chat_format`, `llama_grammar`, `llama_tokenizer`, ...), and are imported
when they are first used. llama.cpp's low-level API is not here; spec/llama_cpp.md lists what is.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from ggufpy.llama_cpp import llama_cpp as _constants
from ggufpy.llama_cpp import llama_types as _types
from ggufpy.llama_cpp.llama import __all__ as _of_llama

if TYPE_CHECKING:
    from ggufpy.llama_cpp.llama import *  # noqa: F403
    from ggufpy.llama_cpp.llama_cpp import *  # noqa: F403
    from ggufpy.llama_cpp.llama_types import *  # noqa: F403

__version__ = "0.3.36"  # the llama-cpp-python whose interface this is

_MODULES = (
    "llama", "llama_cache", "llama_chat_format", "llama_cpp", "llama_grammar", "llama_speculative", "llama_tokenizer",
    "llama_types",
)  # fmt: skip

__all__ = [*_of_llama, *_constants.__all__, *_types.__all__]


def __getattr__(name: str) -> object:
    if name in _MODULES:
        return import_module(f"{__name__}.{name}")
    if name in _of_llama:
        return getattr(import_module(f"{__name__}.llama"), name)
    home = _types if name in _types.__all__ else _constants
    if name in home.__all__:
        return getattr(home, name)
    raise _constants.no_such_name(__name__, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_MODULES})
