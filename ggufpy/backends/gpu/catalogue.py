"""Every kernel that can be wanted: what compiles them ahead, or checks that they compile, goes by this."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator
from importlib.resources import files
from types import ModuleType

from .source import KernelSpec


def kernels() -> tuple[KernelSpec, ...]:
    """One spec of each variant of each kernel, once: what `examples()` says of each module here that makes specs."""
    found: dict[KernelSpec, None] = {}
    for module in _modules(importlib.import_module(__package__)):
        examples = vars(module).get("examples")
        if examples is not None:
            found.update(dict.fromkeys(examples()))
    return tuple(found)


def sources() -> frozenset[str]:
    """Names of the kernels that there are files of."""
    folder = files(__package__).joinpath("kernels")
    return frozenset(each.name.removesuffix(".cu") for each in folder.iterdir() if each.name.endswith(".cu"))


def _modules(package: ModuleType) -> Iterator[ModuleType]:
    """The modules of a package, and those of packages in it."""
    for info in pkgutil.iter_modules(package.__path__):
        module = importlib.import_module(f"{package.__name__}.{info.name}")
        yield module
        if info.ispkg:
            yield from _modules(module)
