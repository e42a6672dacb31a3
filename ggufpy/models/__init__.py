"""Architectures. A module here is named as `general.architecture` names it and has `plan(keys, tensors) -> Plan`."""

from __future__ import annotations

import importlib
import pkgutil
from typing import Protocol, cast

from ggufpy.errors import GGUFError
from ggufpy.format.values import shown

from .base import Keys
from .plan import Plan
from .source import TensorTable

# Modules here that are no architecture.
HELPERS = (
    "base", "inputs", "interpreter", "lora", "op", "ops", "plan", "recurrent", "rewrite", "rope", "source", "taps",
    "views",
)  # fmt: skip


class Architecture(Protocol):
    """What a module of this package offers."""

    def plan(self, keys: Keys, tensors: TensorTable) -> Plan: ...


def names() -> list[str]:
    """Architectures that run."""
    return sorted(m.name for m in pkgutil.iter_modules(__path__) if m.name not in HELPERS)


def find(architecture: str) -> Architecture:
    """The module of an architecture. Raises GGUFError for one that does not run yet."""
    known = names()
    if architecture not in known:
        raise GGUFError(
            f"general.architecture is {shown(architecture)}, which ggufpy does not run yet; it runs: {', '.join(known)}"
        )
    return cast(Architecture, importlib.import_module(f"{__name__}.{architecture}"))
