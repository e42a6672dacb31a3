"""Chat formats by the names that llama-cpp-python has: a module each, which ends with its format(s), `FORMATS`.

Modules are found by their files; those whose name begins with "_" have what several share. `get("chatml")` gives a
`Format`, whose `render` writes the prompt and whose `stops` end an answer. `handlers` has what a program has registered
in place of a format.
"""

from __future__ import annotations

import pkgutil
from functools import cache
from importlib import import_module

from ggufpy.chat.formats._format import Format
from ggufpy.chat.formats._handlers import handlers
from ggufpy.errors import GGUFError

__all__ = ["Format", "UnknownFormat", "get", "handlers", "names"]


class UnknownFormat(GGUFError):
    """No chat format of this name; the message lists the known ones."""


@cache
def _formats() -> dict[str, Format]:
    """Every format by its name."""
    files = [module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_")]
    found = [form for file in files for form in import_module(f"{__name__}.{file}").FORMATS]
    return {form.name: form for form in found}


def names() -> list[str]:
    """Every name that `get` knows, sorted."""
    return sorted(_formats())


def get(name: str) -> Format:
    """The format of this name. Raises UnknownFormat, a GGUFError, for another."""
    form = _formats().get(name)
    if form is None:
        known = ", ".join(sorted({*names(), *handlers.names()}))
        raise UnknownFormat(
            f"chat_format {name[:60]!r} is not known; known: {known}. chat_format=None takes the model's own template"
        )
    return form
