"""Architectures. A module here is named as `general.architecture` names it and has `plan(keys, tensors) -> Plan`.

Where that is no name of a module, "-" and "." are "_" in it, and the module has `NAME`: gpt_oss.py has "gpt-oss".
"""

from __future__ import annotations

import importlib
import pkgutil
import re
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import Protocol, cast

from ggufpy.errors import GGUFError
from ggufpy.format.values import shown

from .base import Keys
from .checkpoint import Checkpoint, HfConfig
from .plan import Plan
from .source import TensorTable

# Modules here that are no architecture.
HELPERS = (
    "base", "changes", "checkpoint", "classifier", "elsewhere", "encoders", "hf_config", "inputs", "interpreter",
    "longrope", "lora", "op", "ops", "parts", "plan", "recurrent", "rewrite", "rope", "rules", "scaling", "source",
    "taps", "views",
)  # fmt: skip


class Architecture(Protocol):
    """What a module of this package offers; `checkpoint` only where it converts."""

    checkpoint: Checkpoint

    def plan(self, keys: Keys, tensors: TensorTable) -> Plan: ...


def names() -> list[str]:
    """Architectures that run."""
    return sorted(_name(module) for module in _modules())


def _files() -> list[str]:
    """Names of the modules of architectures."""
    return [m.name for m in pkgutil.iter_modules(__path__) if m.name not in HELPERS]


def _modules() -> list[ModuleType]:
    return [importlib.import_module(f"{__name__}.{file}") for file in _files()]


def _name(module: ModuleType) -> str:
    """What `general.architecture` says for a module."""
    return str(vars(module).get("NAME", module.__name__.rpartition(".")[2]))


def find(architecture: str) -> Architecture:
    """The module of an architecture, the only one imported. Raises GGUFError for one that does not run yet."""
    file = re.sub(r"[-.]", "_", architecture)
    if file in _files():
        module = importlib.import_module(f"{__name__}.{file}")
        if _name(module) == architecture:
            return cast(Architecture, module)
    raise GGUFError(
        f"general.architecture is {shown(architecture)}, which ggufpy does not run yet; it runs: {', '.join(names())}"
    )


def checkpoint_of(classes: Sequence[str], config: HfConfig) -> tuple[str, Checkpoint]:
    """The architecture whose checkpoints are of one of these classes, or whose kind is that of the text half of a model
    that also sees or hears. Raises GGUFError, with the classes there are."""
    known: list[str] = []
    inner = config.values.get("text_config")
    kind = str(inner.get("model_type")) if isinstance(inner, Mapping) else ""
    of_kind: list[tuple[str, Checkpoint]] = []
    for module in _modules():
        found = vars(module).get("checkpoint")
        if not isinstance(found, Checkpoint):
            continue
        known += found.classes
        if set(classes) & set(found.classes) and found.claims(config):
            return _name(module), found
        if kind and kind in found.kinds and found.claims(config):
            of_kind.append((_name(module), found))
    if of_kind:
        return of_kind[0]
    said = ", ".join(map(shown, classes[:3])) or "nothing"
    raise GGUFError(
        f"config.json: architectures is {said}, which ggufpy does not convert; it converts: {', '.join(sorted(known))}"
    )
