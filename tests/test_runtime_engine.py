"""Steps of many sequences: each has the tokens and bits that it has alone, whatever else runs, ends or is shared."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from engine import VOCABULARY, Text, difference, divergence, load, reference, some_fast, synthetic, write_model
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ggufpy import format as gguf
from ggufpy.errors import GGUFError
from ggufpy.jit.cache import Library
from ggufpy.runtime import EngineOptions
from ggufpy.runtime.engine import Chunk, Engine
from ggufpy.simd.isa import Level

pytestmark = pytest.mark.usefixtures("level")

N_CTX = 300
CACHE_TYPES = [("q8_0", 1e-3), ("bf16", 1e-3), ("q4_0", 2e-2)]
RNG = np.random.default_rng(4)
TEXTS = [RNG.integers(0, 320, n).tolist() for n in (290, 131, 40, 7)]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    shapes, path = synthetic(), tmp_path_factory.mktemp("models") / "m.gguf"
    shapes.write_model(path, shapes.Shape(2, 256, 256, 4, 2, 320, 400), "Q4_0")
    return path


@pytest.fixture(scope="module")
def session(path: Path, level: Level) -> Iterator[Text]:
    with gguf.open(path) as file:
        options = EngineOptions(n_threads=2, n_ctx=N_CTX, n_batch=64, n_parallel=4)
        with load(file, options) as session:
            assert session.engine.isa == level.name
            yield session


@pytest.fixture(scope="module")
def alone(session: Text) -> list[Any]:
    """Logits of every token of TEXTS, each text by itself."""
    found = []
    for text in TEXTS:
        session.truncate(0)
        found.append(session.eval_logits(text))
    session.truncate(0)
    return found


def feed(engine: Engine, sequence: Any, tokens: list[int], bulk: bool = False) -> Any:
    """All logits of tokens that may be more than a step's."""
    steps = [tokens[i : i + engine.rows] for i in range(0, len(tokens), engine.rows)]
    return np.concatenate([engine.step([Chunk(sequence, part, "all", bulk)])[0] for part in steps])


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_mix_gives_each_sequence_what_it_has_alone(session: Text, alone: list[Any], data: st.DataObject) -> None:
    engine = session.engine
    sequences, done = [engine.sequence() for _ in TEXTS], [0] * len(TEXTS)
    for _ in range(data.draw(st.integers(1, 12))):
        chunks, rows, left = [], [], engine.rows
        for i in data.draw(st.permutations(range(len(TEXTS)))):
            count = min(data.draw(st.sampled_from([0, 1, 1, 2, 5, 17, 40])), left, len(TEXTS[i]) - done[i])
            if count:
                logits = data.draw(st.sampled_from(["none", "last", "all"]))
                part = TEXTS[i][done[i] : done[i] + count]
                chunks.append(Chunk(sequences[i], part, logits, engine.reads_in_bulk(len(TEXTS[i]))))
                rows.append((i, {"none": count, "last": count - 1, "all": 0}[logits], count))
                left -= count
        if not chunks:
            continue
        for (i, first, count), found in zip(rows, engine.step(chunks), strict=True):
            np.testing.assert_array_equal(found, alone[i][done[i] + first : done[i] + count])
            done[i] += count
        i = data.draw(st.integers(0, len(TEXTS) - 1))
        if data.draw(st.booleans()):  # cancelled, and begun again behind some of what it had
            done[i] = data.draw(st.integers(0, done[i]))
            if data.draw(st.booleans()):
                sequences[i].truncate(done[i])
            else:
                before, sequences[i] = sequences[i], sequences[i].fork(done[i])
                before.close()
    for sequence in sequences:
        sequence.close()
    assert engine.free_pages == 4 * 3


@pytest.mark.parametrize("wanted", [("last", "last", "last"), ("last", "all", "none"), ("none", "last", "none")])
def test_what_is_lent_is_what_is_given(session: Text, alone: list[Any], wanted: tuple[Any, ...]) -> None:
    """Also where exact and bulk rows are computed one after the other, in the same memory."""
    engine = session.engine
    parts = list(zip((0, 3, 1), (30, 5, 1), wanted, strict=True))
    sequences = [engine.sequence() for _ in parts]
    chunks = [
        Chunk(sequence, TEXTS[i][:count], logits, engine.reads_in_bulk(len(TEXTS[i])), lent=True)
        for sequence, (i, count, logits) in zip(sequences, parts, strict=True)
    ]
    found = engine.step(chunks)
    for rows, (i, count, logits) in zip(found, parts, strict=True):
        first = {"none": count, "last": count - 1, "all": 0}[logits]
        np.testing.assert_array_equal(rows, alone[i][first:count])
    lent, own = (engine.step([Chunk(sequences[1], [7], lent=lent)])[0] for lent in (True, False))
    assert (lent.base is None, own.base is None) == (False, True)
    for sequence in sequences:
        sequence.close()


def test_forks_share_pages_until_one_writes(session: Text, alone: list[Any]) -> None:
    engine = session.engine
    first, bulk = engine.sequence(), engine.reads_in_bulk(len(TEXTS[0]))
    feed(engine, first, TEXTS[0][:200], bulk)
    free = engine.free_pages
    second, third = first.fork(150), first.fork(128)
    assert engine.free_pages == free
    other = [5, 6, 7]
    engine.step([Chunk(second, other)])  # into the page that both have
    assert engine.free_pages == free - 1
    np.testing.assert_array_equal(feed(engine, first, TEXTS[0][200:220], bulk), alone[0][200:220])
    np.testing.assert_array_equal(feed(engine, third, TEXTS[0][128:140], bulk), alone[0][128:140])
    second.truncate(150)
    np.testing.assert_array_equal(feed(engine, second, TEXTS[0][150:160], bulk), alone[0][150:160])
    del first, second, third  # dropped sequences give their pages back
    assert engine.free_pages == 12


@pytest.mark.parametrize(("keep", "drop"), [(0, 30), (10, 77), (128, 16), (5, 1), (0, 150), (60, 0)])
def test_a_shift_is_as_if_positions_had_been_lower(tmp_path: Path, keep: int, drop: int) -> None:
    """With one layer, keys and values do not depend on what was dropped: the outcome is that of the text without it."""
    path = write_model(tmp_path / "m", {"context_length": 256, "block_count": 1})
    tokens = np.random.default_rng(keep).integers(0, VOCABULARY, 150).tolist()
    with gguf.open(path) as file, load(file, EngineOptions(n_threads=2, n_batch=33)) as session:
        session.eval(tokens)
        with pytest.raises(GGUFError, match="cannot keep"):
            session.shift(100, 51)
        session.shift(keep, drop)
        assert session.n_past == 150 - drop
        session.eval([3])
        exact = reference(file, [*tokens[:keep], *tokens[keep + drop :], 3])[-1:]
        assert difference(exact, session.last_logits()[None]) < 5e-3


def test_a_shift_leaves_a_fork_alone(session: Text, alone: list[Any]) -> None:
    engine = session.engine
    first, bulk = engine.sequence(), engine.reads_in_bulk(len(TEXTS[1]))
    feed(engine, first, TEXTS[1][:100], bulk)
    second = first.fork(100)
    first.shift(10, 20)
    assert first.n_past == 80
    np.testing.assert_array_equal(feed(engine, second, TEXTS[1][100:], bulk), alone[1][100:])
    first.close()
    second.close()


@pytest.mark.parametrize(("kind", "most"), some_fast(CACHE_TYPES, CACHE_TYPES[:1]))
def test_cache_types(path: Path, kind: str, most: float) -> None:
    with gguf.open(path) as file:
        plain = EngineOptions(n_threads=2, n_ctx=N_CTX)
        with load(file, plain) as session:
            exact, whole = session.eval_logits(TEXTS[0]), session.engine.kv_bytes
        options = EngineOptions(n_threads=2, n_ctx=N_CTX, cache_type_k=kind, cache_type_v=kind)
        with load(file, options) as session:
            found = session.eval_logits(TEXTS[0])
            assert 0 < divergence(exact, found) < most
            assert session.engine.kv_bytes / whole == {"bf16": 1.0, "q8_0": 34 / 64, "q4_0": 18 / 64}[kind]


def test_cache_types_that_do_not_fit(tmp_path: Path, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are refused before kernels are compiled for them and weights are packed."""

    def too_late(*given: object) -> None:
        raise AssertionError("kernels are loaded")

    monkeypatch.setattr(Library, "load", too_late)
    with gguf.open(write_model(tmp_path / "m")) as file, pytest.raises(GGUFError, match="multiple of 32"):
        load(file, EngineOptions(cache_type_k="q8_0"))
    with gguf.open(write_model(tmp_path / "m")) as file, pytest.raises(GGUFError, match="multiple of 32"):
        load(file, EngineOptions(cache_type_v="q4_0"))
    with gguf.open(path) as file, pytest.raises(GGUFError, match="q5_1"):
        load(file, EngineOptions(cache_type_v="q5_1"))


@pytest.mark.parametrize("lengths", [(21, 21, 22), (1, 17, 18, 19), (17, 17, 17, 13)])
def test_many_prompts_fill_a_step(tmp_path: Path, lengths: tuple[int, ...]) -> None:
    """Bulk rows, where the machine has them: as many as a step takes, with the logits that each prompt has alone."""
    shapes, path = synthetic(), tmp_path / "m.gguf"
    shapes.write_model(path, shapes.Shape(1, 64, 96, 2, 1, 320, 128), "F16")
    texts = [RNG.integers(0, 320, n).tolist() for n in lengths]
    options = EngineOptions(n_threads=2, n_ctx=64, n_batch=sum(lengths), n_parallel=len(texts))
    with gguf.open(path) as file, load(file, options) as session:
        engine = session.engine
        single = [engine.step([Chunk(engine.sequence(), text, "all")])[0] for text in texts]
        together = engine.step([Chunk(engine.sequence(), text, "all") for text in texts])
    for a, b in zip(single, together, strict=True):
        np.testing.assert_array_equal(a, b)


def test_steps_that_cannot_be(session: Text) -> None:
    engine = session.engine
    a, b = engine.sequence(), engine.sequence()
    closed = engine.sequence()
    closed.close()
    wrong: list[tuple[list[Chunk], str]] = [
        ([], "at least one token"),
        ([Chunk(a, [])], "at least one token"),
        ([Chunk(a, [320])], "vocabulary"),
        ([Chunk(a, [1]), Chunk(a, [2])], "one chunk"),
        ([Chunk(a, [1] * 60), Chunk(b, [1] * 5)], "n_batch"),
        ([Chunk(engine.sequence(), [1]) for _ in range(5)], "n_parallel"),
        ([Chunk(closed, [1])], "closed"),
    ]
    for chunks, message in wrong:
        with pytest.raises(GGUFError, match=message):
            engine.step(chunks)
        assert a.n_past == b.n_past == 0
    for _ in range(4):
        feed(engine, a, [1] * 64)
    with pytest.raises(GGUFError, match="the context is full"):
        engine.step([Chunk(b, [1]), Chunk(a, [1] * 45)])
    assert (a.n_past, b.n_past) == (256, 0)
    a.close()
    b.close()
