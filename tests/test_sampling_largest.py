"""The largest logits: what the kernel and NumPy find is what a full sort finds, and texts do not depend on which."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from engine import LEVELS, Room, run
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ggufpy.generate.sampling import Sampler, Sampling, largest
from ggufpy.simd.isa import Level

SORTS = {
    "normal": lambda rng, n: rng.standard_normal(n),
    "ties": lambda rng, n: rng.integers(-3, 4, n),
    "all equal": lambda rng, n: np.zeros(n),
    "rising": lambda rng, n: np.arange(n),
    "falling": lambda rng, n: -np.arange(n),
    "zeros of both signs": lambda rng, n: np.where(rng.random(n) < 0.5, -0.0, 0.0),
    "a few allowed": lambda rng, n: np.where(rng.random(n) < 20 / n, rng.standard_normal(n), -np.inf),
    "most allowed": lambda rng, n: np.where(rng.random(n) < 0.9, rng.standard_normal(n), -np.inf),
    "none allowed": lambda rng, n: np.full(n, -np.inf),
    "huge": lambda rng, n: rng.choice([-3.4028235e38, 3.4028235e38, 1e-45, -np.inf], n),
}


def row(sort: str, n: int, seed: int = 0) -> Any:
    return SORTS[sort](np.random.default_rng(seed), n).astype(np.float32)


def sorted_places(logits: Any, k: int) -> list[int]:
    """Python's sort, which keeps the order of equals."""
    allowed = [i for i, value in enumerate(logits.tolist()) if value > -np.inf]
    return sorted(allowed, key=lambda i: -logits[i])[:k]


@pytest.mark.parametrize("level", LEVELS, ids=lambda level: level.name)
def test_the_kernel_at_every_level(level: Level) -> None:
    for n in (1, 3, 31, 32, 128, 129, 1000, 4099):
        for sort in SORTS:
            logits = row(sort, n, n)
            for k in (1, 2, 40, 64):
                found = Room(np.full(1 + 2 * k + n // 32 + 1, -7, np.int64))
                room = Room(logits)
                run(largest.LARGEST, level, row_ptr=room, n_columns=n, n_wanted=k, out_ptr=found)
                count = int(found.array[0])
                assert found.array[1 : 1 + count].tolist() == sorted_places(logits, k), (n, sort, k)
                assert np.array_equal(room.array, logits)


@given(st.sampled_from(sorted(SORTS)), st.integers(1, 9000), st.integers(0, 100), st.integers(0, 10))
@example("ties", largest.LONG, largest.FEW, 0)
@example("a few allowed", largest.LONG, largest.FEW, 0)
@settings(deadline=None)
def test_any_row_is_sorted_as_far_as_is_wanted(sort: str, n: int, k: int, seed: int) -> None:
    logits = row(sort, n, seed)
    assert largest.largest(logits, k).tolist() == sorted_places(logits, k or n)
    assert largest.largest(logits.astype(np.float64), k).tolist() == sorted_places(logits, k or n)


def test_a_row_that_is_not_in_one_piece() -> None:
    logits = row("normal", 2 * largest.LONG)[::2]
    assert largest.largest(logits, 40).tolist() == sorted_places(logits, 40)


@pytest.mark.parametrize("options", [{}, {"top_k": 5, "min_p": 0.0}, {"repeat_penalty": 1.3}, {"top_n_sigma": 2.0}])
def test_texts_do_not_depend_on_the_kernel(options: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    rows = np.random.default_rng(1).normal(0, 3, (40, 6000)).astype(np.float32)

    def drawn() -> list[int]:
        sampler = Sampler(Sampling(seed=3, **options), 6000)
        tokens = []
        for logits in rows:
            tokens.append(sampler.sample(logits))
            sampler.accept(tokens[-1])
        return tokens

    with_kernel = drawn()
    monkeypatch.setattr(largest, "FEW", 0)
    assert drawn() == with_kernel
    assert len(set(with_kernel)) > 20
