"""Pickles as PyTorch itself saves them."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest

from ggufpy.convert.pickles import open_pickle
from ggufpy.errors import GGUFError

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.oracle


@pytest.mark.parametrize("zipped", [True, False])
def test_saved_by_torch(tmp_path: Path, zipped: bool) -> None:
    torch.manual_seed(0)
    base = torch.randn(5, 7)
    state = {
        "f32": base, "turned": base.T, "part": base[1:3, 2:], "again": base, "f16": base.half(),
        "bf16": base.bfloat16(), "i64": torch.arange(6).reshape(2, 3), "u8": torch.arange(6, dtype=torch.uint8),
        "bool": torch.tensor([True, False]), "scalar": torch.tensor(2.5), "empty": torch.zeros(0, 3),
        "trained": torch.nn.Parameter(torch.randn(3, 4)), "f8": base.to(torch.float8_e4m3fn),
        "deep": torch.randn(2, 3, 4).permute(2, 0, 1), "f64": base.double(),
    }  # fmt: skip
    path = tmp_path / "a.bin"
    torch.save(state, path, _use_new_zipfile_serialization=zipped)
    found = open_pickle(path)
    assert set(found) == set(state)
    for name, value in state.items():
        value = value.detach()
        assert found[name].shape == tuple(value.shape)
        if name not in ("u8", "bool"):
            assert np.array_equal(found[name].to_numpy(), value.float().numpy(), equal_nan=True), name
    assert np.array_equal(found["u8"].array, state["u8"].numpy())


def test_a_module_and_its_state(tmp_path: Path) -> None:
    """A state dict has attributes; a module is code and refused by name."""
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    torch.save(model.state_dict(), tmp_path / "state.bin")
    found = open_pickle(tmp_path / "state.bin")
    assert np.array_equal(found["0.weight"].array, model[0].weight.detach().numpy())
    torch.save(model, tmp_path / "module.bin")
    with pytest.raises(GGUFError, match=r"names 'torch\.nn\.modules\.container\.Sequential'"):
        open_pickle(tmp_path / "module.bin")
    saved = io.BytesIO()
    torch.save(model.state_dict(), saved)
    raw = saved.getvalue()
    for cut in range(0, len(raw), 101):
        (tmp_path / "cut.bin").write_bytes(raw[:cut])
        with pytest.raises(GGUFError):
            open_pickle(tmp_path / "cut.bin")
