"""The fields of a request's body: which there are, and one line for each that there is not."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any

from ggufpy.errors import GGUFError


def check_names(body: Mapping[str, Any], known: Iterable[str], refused: Mapping[str, str] | None = None) -> None:
    """Raises GGUFError for a field that is not `known`, with the nearest that is, or one of `refused`, with its reason.

    A refused field that is null says nothing, and passes.
    """
    names = set(known)
    for name, value in body.items():
        if refused and name in refused:
            if value is not None:
                raise GGUFError(f"{name} cannot be honoured: {refused[name]}")
        elif name not in names:
            near = difflib.get_close_matches(name, sorted(names), 1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise GGUFError(f"{name[:80]} is no field of this request{hint}")
