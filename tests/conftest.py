"""What every test may use."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of reference data: GGUFPY_SHARED, or `shared` beside the repository. Skips without one."""
    beside = Path(__file__).resolve().parent.parent.parent / "shared"
    folder = Path(os.environ.get("GGUFPY_SHARED", beside))
    if not folder.is_dir():
        pytest.skip(f"no reference data at {folder} (set GGUFPY_SHARED)")
    return folder
