"""Every architecture that converts: rules and plan have the same tensors, the engine what the interpreter has, and what
a file says comes back from the checkpoint that is made of it."""

from __future__ import annotations

from pathlib import Path

import families
import numpy as np
import pytest
from families_near_llama import FAMILIES

from ggufpy import format as gguf
from ggufpy import runtime
from ggufpy.backends.cpu.model import read_plan
from ggufpy.models.interpreter import Interpreter
from ggufpy.runtime import EngineOptions

TOKENS = [2, 5, 60, 7, 7, 0, 11, 30, 31, 8, 9, 2, 44, 1, 3, 3, 21]


@pytest.mark.parametrize("name", FAMILIES)
def test_it_runs_and_comes_back(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config, extras = FAMILIES[name]
    path = families.write(tmp_path / "m.gguf", config, extras, monkeypatch)
    with gguf.open(path) as file:
        plan = read_plan(file)
        weights = {tensor: values.to_numpy() for tensor, values in file.tensors.items()}
        interpreter, hidden = Interpreter(plan, weights), not plan.makes_logits
        exact = interpreter.hidden(TOKENS) if hidden else interpreter.logits(TOKENS)
        with runtime.load(file, EngineOptions(n_threads=1, n_ctx=32)) as engine:
            logits = engine.read(engine.sequence(), TOKENS, "all", hidden=hidden)
            assert np.abs(exact - logits).max() < 2e-3 * (exact.max() - exact.min())
        keys, tensors, _ = families.there_and_back(file, tmp_path / "back")
        prefix = f"{file.metadata['general.architecture']}."
        own = {key: value for key, value in file.metadata.items() if key.startswith(prefix)}
        assert set(own) == set(keys)
        for key, value in own.items():
            assert keys[key] == (pytest.approx(value, rel=1e-6) if isinstance(value, float) else value), key
        assert set(tensors) == set(file.tensors)
        rounded = 1e-6 if "gemma" in name else 0.0  # norms, kept less 1
        for tensor, rows in tensors.items():
            values = rows.to_numpy().reshape(weights[tensor].shape)
            np.testing.assert_allclose(values, weights[tensor], rtol=0, atol=rounded, err_msg=tensor)
