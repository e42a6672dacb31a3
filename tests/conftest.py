"""What every test may use."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from ggufpy.simd import isa
from ggufpy.simd.isa import Level

_PRESENT = isa.available()
# The level that runs by default and the one with tiles in memory always; the others with the longer tests.
LEVELS = [
    pytest.param(level, id=level.name, marks=[] if level in (_PRESENT[0], isa.EMULATED) else [pytest.mark.slow])
    for level in (*_PRESENT, isa.EMULATED)
]


@pytest.fixture(scope="module", params=LEVELS)
def level(request: pytest.FixtureRequest) -> Iterator[Level]:
    """Each SIMD level that runs here, in force: for modules whose tests all run at each."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GGUFPY_ISA", request.param.name)
        yield request.param


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of reference data: GGUFPY_SHARED, or `shared` beside the repository. Skips without one."""
    beside = Path(__file__).resolve().parent.parent.parent / "shared"
    folder = Path(os.environ.get("GGUFPY_SHARED", beside))
    if not folder.is_dir():
        pytest.skip(f"no reference data at {folder} (set GGUFPY_SHARED)")
    return folder
