"""Names of kernels' arguments say what they are, as `jit/spec.py` (struct) has it, and sources say how data lies."""

from __future__ import annotations

import numpy as np
import pytest

from ggufpy.jit.spec import HOMES, ROOT, kernel, load_source

# Numbers that are no address, count, distance or size: indices, offsets and kinds.
PLAIN = frozenset({"first", "last", "window", "start", "end", "clock_id", "x_type"})
VERBS = frozenset({"adds", "renormalises", "stops", "swaps"})  # flags
SOURCES = sorted(
    path.stem for home in HOMES for path in (ROOT / home).glob("*.py") if path.stem != "__init__"
    and hasattr(load_source(kernel(path.stem)), "ARGS")
)  # fmt: skip


def fits(name: str) -> bool:
    ends, begins = ("_ptr", "_stride", "_bytes"), ("n_", "is_", "has_")
    return name in PLAIN | VERBS or name.endswith(ends) or name.startswith(begins)


def test_there_are_sources() -> None:
    assert {"add", "matmul_int", "decode", "encode_lanes", "walk_strings"} <= set(SOURCES)


@pytest.mark.parametrize("source", SOURCES)
def test_names_of_arguments_say_what_they_are(source: str) -> None:
    dtype = load_source(kernel(source)).ARGS
    kinds = {name: dtype[name] for name in dtype.names or ()}
    assert set(kinds.values()) <= {np.dtype("i8"), np.dtype("f4")}
    assert [name for name, kind in kinds.items() if kind == np.dtype("i8") and not fits(name)] == []


def test_no_plain_name_is_left_over() -> None:
    names = {name for source in SOURCES for name in load_source(kernel(source)).ARGS.names or ()}
    assert names >= PLAIN | VERBS
