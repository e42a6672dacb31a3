"""What every test may use."""

from __future__ import annotations

import os

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # before NumPy comes: a process a core, whose threads would spin

import faulthandler
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import engine
import pytest

from ggufpy.jit import ahead, verdicts
from ggufpy.simd import isa
from ggufpy.simd.isa import Level

if TYPE_CHECKING:
    from gpu_shim import ShimDevice
    from page_browser import Page
    from selenium.webdriver import Chrome

BEST = isa.available()[0]


@pytest.fixture(scope="module", params=(*isa.available(), isa.EMULATED), ids=lambda level: level.name)
def level(request: pytest.FixtureRequest) -> Iterator[Level]:
    """Each SIMD level that runs here, in force: for modules whose tests all run at each."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GGUFPY_ISA", request.param.name)
        yield request.param


@pytest.fixture(scope="module")
def chrome() -> Iterator[Chrome]:
    """A browser, for the tests of a module."""
    from page_browser import chromium  # which few tests need

    with chromium() as it:
        yield it


@pytest.fixture
def page(chrome: Chrome) -> Iterator[Page]:
    """The page in it, over a server that does as it is told."""
    from page_browser import opened

    with opened(chrome) as it:
        yield it


def _levels(item: pytest.Item) -> list[Level]:
    """The SIMD levels that a test is for, of its parameters."""
    spec = getattr(item, "callspec", None)
    return [] if spec is None else [value for value in spec.params.values() if isinstance(value, Level)]


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: Sequence[pytest.Item]) -> None:
    """Tests at the level that runs by default are fast ones, and those that emulate tiles where it has none; tests at
    the other levels compile as many kernels again each."""
    fast = (BEST,) if isa.has_tiles(BEST) else (BEST, isa.EMULATED)
    for item in items:
        if any(level not in fast for level in _levels(item)):
            item.add_marker(pytest.mark.slow)


def pytest_collection_finish(session: pytest.Session) -> None:
    """What is compiled ahead is for the tests that will run."""
    engine.ACTIVE.update(level for item in session.items for level in _levels(item))


def pytest_configure() -> None:
    if "PYTEST_XDIST_WORKER" in os.environ:  # there is such a process for each core
        ahead.MOST_WORKERS = 1


@pytest.fixture(scope="module", autouse=True)
def _untried(request: pytest.FixtureRequest) -> Iterator[None]:
    """Kernels are compared with references here, so a trial of each, in a child process, would say nothing new."""
    with pytest.MonkeyPatch.context() as patch:
        if request.module.__name__ not in ("test_trial", "test_card_trial"):
            patch.setattr(verdicts, "was_right", lambda kernels, level: True)
            patch.setattr(verdicts, "has_passed", lambda what, key: True)
        yield


@pytest.fixture
def deadline() -> Iterator[None]:
    """Ends the process, with a traceback, if the test hangs. How long it takes otherwise is no matter."""
    faulthandler.dump_traceback_later(300, exit=True)
    yield
    faulthandler.cancel_dump_traceback_later()


@pytest.fixture
def strict_gpu() -> Iterator[ShimDevice]:
    """A GPU that is the CPU: each launch runs in three orders, and all that kernels touch is looked at. Skips without
    g++."""
    from gpu_shim import ShimDevice

    device = ShimDevice(strict=True)
    yield device
    device.close()


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of reference data: GGUFPY_SHARED, or `shared` beside the repository. Skips without one."""
    beside = Path(__file__).resolve().parent.parent.parent / "shared"
    folder = Path(os.environ.get("GGUFPY_SHARED", beside))
    if not (folder / "README.md").is_file():  # an empty folder has no reference data either
        pytest.skip(f"no reference data at {folder} (set GGUFPY_SHARED)")
    return folder
