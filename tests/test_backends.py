"""The seam for devices: an engine over a backend that is not ours, alone and with layers on the CPU."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from engine import BEST
from numpy_backend import NumpyModel
from test_plan import CONTEXT, Maker, source_of, split_at

from ggufpy.backends.cpu.model import Model, load_kernels
from ggufpy.backends.options import EngineOptions
from ggufpy.backends.program import Loaded
from ggufpy.backends.split import SplitModel
from ggufpy.errors import GGUFError
from ggufpy.jit.cache import library
from ggufpy.models.interpreter import Interpreter
from ggufpy.models.plan import Plan
from ggufpy.runtime.engine import Chunk, Engine
from ggufpy.runtime.request import Request
from ggufpy.runtime.scheduler import Scheduler

TEXT = np.random.default_rng(6).integers(0, 50, 150).tolist()
PLAN = Maker(None).plan()
SOURCE = source_of(PLAN)
WEIGHTS = {name: tensor.to_numpy() for name, tensor in SOURCE.tensors.items()}
EXACT = Interpreter(PLAN, WEIGHTS).logits(TEXT)
HIDDEN = Interpreter(PLAN, WEIGHTS).hidden(TEXT[:30])


def on_numpy(plan: Plan) -> Loaded:
    return NumpyModel(plan, WEIGHTS, CONTEXT, 2)


def on_the_cpu(plan: Plan) -> Loaded:
    options = EngineOptions(n_threads=2, n_parallel=2)
    load_kernels(SOURCE, plan, options, library(BEST))
    return Model(SOURCE, plan, options, library(BEST))


SPLITS: dict[str, Any] = {
    "alone": [on_numpy],
    "before the CPU": [on_numpy, on_the_cpu],
    "behind the CPU": [on_the_cpu, on_numpy],
}


def engine_of(name: str) -> Engine:
    loads = SPLITS[name]
    parts = [PLAN] if len(loads) == 1 else split_at(PLAN, 1)
    models = [load(part) for load, part in zip(loads, parts, strict=True)]
    return Engine(models[0] if len(models) == 1 else SplitModel(models), 64)


@pytest.mark.parametrize("name", SPLITS)
def test_an_engine_runs_on_any_backend(name: str) -> None:
    with engine_of(name) as engine:
        first = engine.sequence()
        found = [engine.read(first, TEXT[:130], "all")]
        other = first.fork(100)
        both = engine.step([Chunk(first, TEXT[130:140], "all"), Chunk(other, TEXT[100:110], "all")])
        first.truncate(135)
        found += [both[0], engine.read(first, TEXT[135:], "all")]
        hidden = engine.read(engine.sequence(), TEXT[:30], "all", hidden=True)
    rows = np.concatenate([EXACT[:140], EXACT[135:]])
    assert np.sqrt(((np.concatenate(found) - rows) ** 2).mean()) / EXACT.std() < 0.01
    assert np.sqrt(((hidden - HIDDEN) ** 2).mean()) / HIDDEN.std() < 0.01
    assert np.sqrt(((both[1] - EXACT[100:110]) ** 2).mean()) / EXACT.std() < 0.01


@pytest.mark.parametrize("name", SPLITS)
def test_requests_run_on_any_backend(name: str) -> None:
    class Greedy:
        def accept(self, token: int) -> None:
            """Nothing depends on it."""

        def sample(self, logits: Any) -> int:
            return int(logits.argmax())

    with engine_of(name) as engine:
        scheduler = Scheduler(engine)
        requests = [scheduler.submit(Request(TEXT[:count], Greedy(), limit=1)) for count in (40, 60, 80)]
        while not scheduler.idle:
            scheduler.step()
    for request in requests:
        row = EXACT[len(request.prompt) - 1]
        assert row[request.produced[0]] > row.max() - 0.05 * EXACT.std()


def test_what_only_one_cpu_can_do_says_so() -> None:
    with engine_of("behind the CPU") as engine:
        assert engine.isa == f"{BEST.name} + numpy"
        assert engine.n_vocab == PLAN.vocabulary
        with pytest.raises(GGUFError, match="all layers are on one CPU"), engine.hooked({"blk.0.x": print}):
            pass
