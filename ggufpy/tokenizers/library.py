"""The two tokenizer libraries: how they are imported, and how they are called.

Imports go past a file of the same name beside the program that runs: `python tokenizers.py` puts that
program's folder first on the path, where `import tokenizers` would then find and run the program again
instead of the library.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib import import_module
from importlib.machinery import PathFinder
from importlib.util import module_from_spec
from typing import Any, TypeVar

from ggufpy.errors import GGUFError

T = TypeVar("T")


def guarded(what: str, call: Callable[[], T]) -> T:
    """`call()` into a library. Whatever goes wrong in there is GGUFError, "`what`: " and its first line.

    A panic of compiled Rust reaches Python as an exception that is no Exception (PyO3's PanicException).
    """
    try:
        return call()
    except (KeyboardInterrupt, SystemExit, GeneratorExit, MemoryError, GGUFError):
        raise
    except BaseException as error:
        line = next(iter(str(error).splitlines()), "") or type(error).__name__
        raise GGUFError(f"{what}: {line[:300]}") from error


def import_library(name: str) -> Any:
    """The installed package `name`. Raises GGUFError if it is not installed or broken, or something else has its
    name."""
    try:
        return _import(name)
    except ImportError as error:
        raise GGUFError(f"the library {name!r} cannot be imported ({error}); pip install {name}") from error


def _import(name: str) -> Any:
    """The module `name` past single files of that name. Raises ImportError; GGUFError for a file that was first."""
    loaded = sys.modules.get(name)
    if loaded is not None:
        if getattr(loaded, "__path__", None) is None:
            raise GGUFError(f"{loaded} hides the library {name!r}; give that file another name")
        return loaded
    for place, entry in enumerate(sys.path):
        spec = PathFinder.find_spec(name, [entry])
        if spec is None or spec.submodule_search_locations is None or spec.loader is None:
            continue  # nothing here, or a single file
        if not any(PathFinder.find_spec(name, [earlier]) for earlier in sys.path[:place]):
            return import_module(name)
        module = module_from_spec(spec)
        sys.modules[name] = module
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[name]
            raise
        return module
    return import_module(name)  # installed in a way that is not a folder on the path
