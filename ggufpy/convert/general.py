"""`general.*`: what a file says of the model as a whole."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from ggufpy.format.rows import Rows
from ggufpy.format.values import Typed


def general(folder: Path, name: str | None, tensors: Iterable[Rows]) -> dict[str, Typed]:
    """The keys of a checkpoint in `folder`; `name` is what the user calls it."""
    return {"general.type": Typed("string", "model"), "general.name": Typed("string", name or folder.resolve().name)}
