"""The paths of the server. A module has `ROUTES`, and is found by being here; names that begin with "_" are shared."""

from __future__ import annotations

import pkgutil
from collections.abc import Awaitable, Callable, Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any

from ggufpy.support.records import dataclass

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.types import ASGIApp

    from ggufpy.server.answer import Prepare
    from ggufpy.server.families import Family
    from ggufpy.server.service import Service

Answer = Callable[["Service", "Request"], Awaitable["ASGIApp | dict[str, Any]"]]
Manners = Callable[[Mapping[str, str]], "Family"]


@dataclass(frozen=True)
class Route:
    """A method and a path, in whose family's manners it answers, and how: by `answer`, whose record is sent and
    whose response, any ASGI application, is called, or by generating what `prepare` makes of a body. `open`: no key is
    asked for. `manners` says by a request's headers whose manners it has, where clients of several families ask."""

    method: str
    path: str
    family: Family
    answer: Answer | None = None
    prepare: Prepare | None = None
    open: bool = False
    manners: Manners | None = None

    def family_for(self, headers: Mapping[str, str]) -> Family:
        """In whose manners a request is answered, what goes wrong before it is known included."""
        return self.family if self.manners is None else self.manners(headers)


def all_routes() -> list[Route]:
    """The routes of all modules."""
    names = sorted(module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_"))
    modules = [import_module(f"{__name__}.{name}") for name in names]
    return [route for module in modules for route in module.ROUTES]
