"""Storage formats of checkpoints: a module each, found by its file.

In: config.json and the tensors as they are stored. Out: tensors by the names that an unquantised checkpoint has, each
as `Rows`: decoded exactly as the format's own library does, and where its numbers fit a block type of GGUF, `exact`
says so. A module has

    NAME                      as people call it
    claims(config, tensors)   whether it is this format
    decode(config, tensors)   the tensors; raises GGUFError for settings that it does not know, and for tensors that are
                              missing or do not fit each other
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping
from typing import Any, Protocol, cast

from ggufpy.convert.safetensors import Stored
from ggufpy.errors import GGUFError
from ggufpy.format.rows import Rows
from ggufpy.support import checks

Tensors = Mapping[str, Stored]


class Storage(Protocol):
    """What a module of this package offers."""

    NAME: str

    def claims(self, config: Mapping[str, Any], tensors: Tensors) -> bool: ...
    def decode(self, config: Mapping[str, Any], tensors: Tensors) -> Mapping[str, Rows]: ...


def formats() -> list[Storage]:
    """All of them. A module whose name begins with "_" is no format but what several share."""
    names = sorted(m.name for m in pkgutil.iter_modules(__path__) if not m.name.startswith("_"))
    return [cast(Storage, importlib.import_module(f"{__name__}.{name}")) for name in names]


def logical(config: Mapping[str, Any], tensors: Tensors) -> tuple[str, Mapping[str, Rows]]:
    """The format's name ("" for plain floats) and the tensors by their logical names.

    Raises GGUFError where config.json says that the checkpoint is quantised in a way that nothing here knows.
    """
    known = formats()
    for storage in known:
        if storage.claims(config, tensors):
            return storage.NAME, storage.decode(config, tensors)
    said = config.get("quantization_config") or config.get("quantization")
    if said:
        method = said.get("quant_method", said) if isinstance(said, Mapping) else said
        raise GGUFError(
            f"config.json: the weights are quantised by {checks.shown(method)}, which ggufpy does not know; it knows "
            f"{', '.join(storage.NAME for storage in known)}"
        )
    return "", dict(tensors)
