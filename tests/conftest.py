"""What every test may use."""

from __future__ import annotations

import faulthandler
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from ggufpy.kernels import ahead


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
    if not folder.is_dir():
        pytest.skip(f"no reference data at {folder} (set GGUFPY_SHARED)")
    return folder
