"""What a model leaves behind when it is closed or dropped: nothing that grows."""

from __future__ import annotations

import gc
import os
import sys
import threading
import time
import weakref
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from engine import SIZES, VOCABULARY, metadata, weights
from test_stateful import TOKENS

from ggufpy import GGUFError, Llama
from ggufpy import format as gguf

WORDS: Mapping[str, Any] = {
    "tokenizer.ggml.model": "llama",
    "tokenizer.ggml.tokens": ["<unk>", "<s>", "</s>", *(f"w{i}" for i in range(VOCABULARY - 3))],
    "tokenizer.ggml.scores": [0.0] * VOCABULARY,
    "tokenizer.ggml.token_type": [2, 3, 3, *[1] * (VOCABULARY - 3)],
}


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model with a vocabulary."""
    made, sizes = tmp_path_factory.mktemp("models") / "m.gguf", {**SIZES, "context_length": 4096}
    gguf.write(made, {**metadata(sizes), **WORDS}, weights(sizes, VOCABULARY, "F32"))
    return made


@pytest.fixture
def uncollected() -> Iterator[None]:
    """Without the collector: what is in a circle stays."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


def used(path: Path, **options: Any) -> Llama:
    """A model after every kind of call."""
    llm = Llama(path, n_threads=2, **options)
    llm._logits_all = True
    assert llm.detokenize(llm.tokenize(b"w3 w4"))
    llm.eval(TOKENS[:20])
    llm.load_state(llm.save_state())
    llm.sample(temp=0.0, logits_processor=lambda ids, row: row)
    list(llm.generate(TOKENS[:20], temp=0.0, limit=3, stopping_criteria=lambda ids, row: False))
    assert len(llm.scores) == llm.n_tokens
    with llm.hook("blk.0.ffn_out", lambda values, rows: None):
        llm.logits(TOKENS[:3])
    return llm


def parts_of(llm: Llama) -> dict[str, weakref.ref[Any]]:
    engine = llm.engine
    parts = {"engine": engine, "weights": engine.model, "program": engine._program, "file": llm._parts.file}
    return {name: weakref.ref(part) for name, part in parts.items()}


def left(parts: dict[str, weakref.ref[Any]]) -> list[str]:
    """What is still there, once threads that were at work have had a moment to let go of it."""
    end = time.monotonic() + 2
    while (names := [name for name, part in parts.items() if part() is not None]) and time.monotonic() < end:
        time.sleep(0.01)
    return names


@pytest.mark.usefixtures("uncollected")
def test_a_model_that_is_dropped_is_gone_at_once(path: Path) -> None:
    before = set(threading.enumerate())  # of other tests' models, which may not have been collected yet
    llm = used(path, lookup=4)
    parts, gone = parts_of(llm), weakref.ref(llm)
    del llm
    assert gone() is None
    assert left(parts) == []
    assert not [thread for thread in set(threading.enumerate()) - before if thread.name.startswith("ggufpy")]


@pytest.mark.usefixtures("uncollected")
def test_a_model_that_is_closed_holds_nothing(path: Path) -> None:
    """Though the object, its streams and its states are still held."""
    llm = used(path)
    stream = llm.generate(TOKENS[:5], temp=0.0)
    next(stream)
    state, parts = llm.save_state(), parts_of(llm)
    llm.close()
    llm.close()
    assert left(parts) == []
    assert state.n_tokens > 0
    for call in (lambda: next(stream), lambda: llm.eval([1]), lambda: llm.n_tokens, lambda: llm.metadata,
                 lambda: llm.load_state(state), lambda: llm.scores, llm.reset):  # fmt: skip
        with pytest.raises(GGUFError, match="this model is closed"):
            call()
    assert llm.name == str(path)


@pytest.mark.usefixtures("uncollected")
def test_drafts_of_another_model_hold_nothing(path: Path) -> None:
    llm = used(path, draft_model=path)
    assert llm._draft_model is not None
    parts = {**parts_of(llm), **{f"draft {name}": part for name, part in parts_of(llm._draft_model).items()}}
    llm.close()
    assert left(parts) == []


@pytest.mark.skipif(sys.platform != "linux", reason="figures are read from /proc")
def test_opening_and_closing_again_and_again(path: Path) -> None:
    seen = []
    for _ in range(20):
        used(path).close()
        status = Path("/proc/self/status").read_text().split()
        rss = int(status[status.index("VmRSS:") + 1]) / 1024
        seen.append((rss, threading.active_count(), len(os.listdir("/proc/self/fd"))))
    assert seen[-1][0] - seen[7][0] < 10  # MiB; the weights and pages of one are 2
    assert seen[-1][1:] == seen[7][1:]
