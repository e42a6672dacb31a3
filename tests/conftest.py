"""What every test may use."""

from __future__ import annotations

import faulthandler
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from ggufpy.kernels import ahead
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


def pytest_configure() -> None:
    if "PYTEST_XDIST_WORKER" in os.environ:  # there is such a process for each core
        ahead.MOST_WORKERS = 1


@pytest.fixture
def deadline() -> Iterator[None]:
    """Ends the process, with a traceback, if the test hangs. How long it takes otherwise is no matter."""
    faulthandler.dump_traceback_later(300, exit=True)
    yield
    faulthandler.cancel_dump_traceback_later()


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of reference data: GGUFPY_SHARED, or `shared` beside the repository. Skips without one."""
    beside = Path(__file__).resolve().parent.parent.parent / "shared"
    folder = Path(os.environ.get("GGUFPY_SHARED", beside))
    if not (folder / "README.md").is_file():  # an empty folder has no reference data either
        pytest.skip(f"no reference data at {folder} (set GGUFPY_SHARED)")
    return folder
