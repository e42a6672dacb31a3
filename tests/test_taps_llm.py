"""`Llama.hook` on small real models: logits that tokens are drawn from, attention and embeddings."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import test_embeddings
from engine import VOCABULARY, write_model

import ggufpy

PROMPT = [1, 2, 3, 4, 5]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("models") / "m.gguf")


def following(values: Any, about: Any) -> None:
    """Has the token that follows each be its number and one more."""
    values[...] = 0.0
    values[np.arange(len(values)), (about.token + 1) % VOCABULARY] = 50.0


SAMPLING: list[dict[str, Any]] = [
    {"temp": 0.0}, {"temp": 0.8, "seed": 1}, {"temp": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0, "seed": 2},
    {"temp": 0.7, "repeat_penalty": 1.1, "xtc_probability": 0.5, "seed": 3},
]  # fmt: skip


@pytest.mark.parametrize("lookup", [0, 3])
@pytest.mark.parametrize("options", SAMPLING, ids=str)
def test_tokens_are_drawn_from_what_a_hook_leaves_of_logits(options: dict[str, Any], lookup: int, model: Path) -> None:
    with ggufpy.Llama(model, n_ctx=64, n_threads=1, lookup=lookup) as llm:
        before = list(llm.generate(PROMPT, **options, limit=20, ignore_eos=True))
        with llm.hook("result_output", following):
            stream = llm.generate(PROMPT, **options, limit=20, ignore_eos=True)
            assert list(stream) == list(range(6, 26))
            assert stream.logits is not None
            assert int(stream.logits.argmax()) == 25
            assert llm.logits(PROMPT).argmax(axis=1).tolist() == [2, 3, 4, 5, 6]
        assert list(llm.generate(PROMPT, **options, limit=20, ignore_eos=True)) == before != list(range(6, 26))


def test_texts_of_threads_have_each_their_own_logits(model: Path) -> None:
    found: dict[int, list[int]] = {}
    with ggufpy.Llama(model, n_ctx=64, n_threads=1, n_parallel=4) as llm, llm.hook("result_output", following):

        def read(first: int) -> None:
            found[first] = list(llm.generate([first], temp=0.0, limit=10))

        threads = [threading.Thread(target=read, args=(10 * i,)) for i in range(1, 5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert found == {first: list(range(first + 1, first + 11)) for first in (10, 20, 30, 40)}


def test_a_head_that_is_switched_off(model: Path) -> None:
    """Its output is nothing, and another text comes of it; what was read with it does not count."""
    outputs: list[Any] = []

    def off(values: Any, about: Any) -> None:
        assert (values.ndim, values.shape[1]) == (3, 2)
        values[:, 1] = 0.0

    with ggufpy.Llama(model, n_ctx=64, n_threads=1) as llm:
        assert llm.activations()["blk.1.kq_soft_max"] == (2, None)
        before = llm.logits(PROMPT)
        with llm.hook("blk.*.kq_soft_max", off), llm.hook("blk.1.kqv_out", lambda y, _: outputs.append(y.copy())):
            after = llm.logits(PROMPT)
        assert not outputs[0][:, 20:].any()
        assert outputs[0][:, :20].all()
        assert np.abs(after - before).max() > 0.05
        np.testing.assert_array_equal(llm.logits(PROMPT), before)


@pytest.mark.parametrize("head", [False, True])
def test_embeddings_are_made_of_what_hooks_leave(head: bool) -> None:
    """With a head it is its norm; an encoder's last layer leaves the final state. Logits are not computed."""
    plan = test_embeddings.plan_of(causal=head, head=head)
    name, called = ("norm" if head else "blk.1.l_out"), list[str]()
    with test_embeddings.llama(plan, test_embeddings.source_of(plan)) as llm:
        assert ("result_output" in llm.activations()) == head
        plain = llm.embed("hello")
        with llm.hook("blk.0.kq_soft_max", lambda values, about: values * 0.5):
            half = llm.embed("hello")
        with llm.hook("blk.1.l_out", lambda values, about: called.append(about.name)):
            assert llm.embed("hello") == plain
        with llm.hook(name, lambda values, about: np.full_like(values, 3.0)):
            assert llm.embed(["hello", "h"]) == [[3.0] * 64] * 2
        if head:
            with llm.hook("result_output", lambda values, about: called.append(about.name)):
                assert llm.embed("hello") == plain
    assert called == ["blk.1.l_out"]
    assert np.abs(np.subtract(half, plain)).max() > 0.01
