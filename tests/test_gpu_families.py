"""Every architecture that converts, all layers on a GPU that is the CPU: what the interpreter has, either way."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import families
import numpy as np
import pytest
from families_near_llama import FAMILIES
from gpu_models import ShimDevices, spread
from test_models_families2 import FAMILIES as MORE
from test_models_families2 import source

from ggufpy import format as gguf
from ggufpy import runtime
from ggufpy.backends.cpu.model import read_plan
from ggufpy.backends.gpu.placing import runnable
from ggufpy.models.interpreter import Interpreter
from ggufpy.models.source import WeightSource
from ggufpy.runtime import EngineOptions
from ggufpy.runtime.engine import Chunk

CONTEXT = 32
TOKENS = [2, 5, 30, 7, 7, 0, 11, 30, 31, 8, 9, 2, 24, 1, 3, 3, 21, 4, 4, 39]
# Windows and caps, biases, experts; each further one has kernels of its own to compile.
FIRST = ("gemma2", "qwen2", "qwen3moe")
NAMES = [pytest.param(name, marks=() if name in FIRST else pytest.mark.slow) for name in FAMILIES]


def check(file: WeightSource, **more: Any) -> None:
    """Reads a text at once, and the same exactly with the last tokens one by one; `more` are options."""
    plan = read_plan(file, CONTEXT)  # by which longrope chooses its factors
    assert runnable(plan) == (len(plan.layers), "")
    interpreter, hidden = Interpreter(plan, _values(file)), not plan.makes_logits
    exact = interpreter.hidden(TOKENS) if hidden else interpreter.logits(TOKENS)
    options = EngineOptions(n_threads=1, n_ctx=CONTEXT, n_gpu_layers="all", **more)
    with runtime.load(file, options, devices=ShimDevices()) as engine:
        found = engine.read(engine.sequence(), TOKENS, "all", hidden=hidden)
        assert spread(exact, found) < 0.01
        if engine.whole_texts:
            found = engine.read(engine.sequence(), TOKENS, "all", exact=True, hidden=hidden)
        else:
            text = engine.sequence()
            parts = [engine.read(text, TOKENS[:16], "all", exact=True, hidden=hidden)]
            parts += [engine.step([Chunk(text, [token], hidden=hidden)])[0] for token in TOKENS[16:]]
            found = np.concatenate(parts)
        assert spread(exact, found) < 0.01


def _values(file: WeightSource) -> dict[str, Any]:
    return {tensor: values.to_numpy() for tensor, values in file.tensors.items()}


@pytest.mark.parametrize("name", NAMES)
def test_relatives_of_llama(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config, extras = FAMILIES[name]
    with gguf.open(families.write(tmp_path / "m.gguf", config, extras, monkeypatch)) as file:
        check(file)


@pytest.mark.slow
@pytest.mark.parametrize("name", MORE)
def test_other_families(name: str) -> None:
    check(source(name))
