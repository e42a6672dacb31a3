"""Names of a package whose modules are imported when they are first asked for (PEP 562)."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from importlib import import_module


def lazy(package: str, home: Mapping[str, str], within: str | None = None) -> Callable[[str], object]:
    """A package's `__getattr__`: `home` says in which of its modules a name is, or in which of those `within`."""

    def get(name: str) -> object:
        if name not in home:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value: object = getattr(import_module(f"{within or package}.{home[name]}"), name)
        setattr(sys.modules[package], name, value)
        return value

    return get
