"""Groups of layers: what each kind of cache holds of a sequence, what a sequence can do with it, and what it costs."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from engine import BEST, VOCABULARY, difference, load, reference, write_model
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_plan import CONTEXT, Maker, source_of, split_at

from ggufpy import format as gguf
from ggufpy.backends.caches import Cache, FixedKv, Kv, WindowKv, layers_by_cache
from ggufpy.backends.caches.latent import Latent
from ggufpy.backends.caches.state import State
from ggufpy.backends.cpu.model import Model, load_kernels
from ggufpy.backends.options import EngineOptions
from ggufpy.backends.split import SplitModel
from ggufpy.errors import GGUFError
from ggufpy.jit.cache import library
from ggufpy.models.interpreter import Interpreter
from ggufpy.models.op import Weight
from ggufpy.models.ops import Attend, Embed, Heads, MatMul, Norm, Rope, Rotate, StoreKv
from ggufpy.models.plan import Plan
from ggufpy.runtime.engine import Chunk, Engine
from ggufpy.runtime.holding import Pool
from ggufpy.runtime.pages import PAGE, Pages
from ggufpy.runtime.request import Request
from ggufpy.runtime.scheduler import Scheduler
from ggufpy.runtime.sequence import Sequence
from ggufpy.simd.isa import EMULATED, Level

STEP, POSITIONS = 50, 12 * PAGE


class Memory:
    """Groups of layers whose pages remember which token is at each position; sequences with a text beside."""

    def __init__(self, caches: list[Cache], sequences: int = 1) -> None:
        self.caches = caches
        counts = [cache.most(POSITIONS, STEP) * sequences for cache in caches]
        self.pages = [np.full((count, PAGE), -7) for count in counts]
        self.pools = tuple(
            Pool(cache, Pages(count, lambda source, target, i=i: self._copy(i, source, target)), STEP)
            for i, (cache, count) in enumerate(zip(caches, counts, strict=True))
        )
        self._next = 0

    def _copy(self, group: int, source: int, target: int) -> None:
        self.pages[group][target] = self.pages[group][source]

    def _move(self, group: int, tables: Any, positions: range, drop: int) -> None:
        memory, (source, target) = self.pages[group], tables
        for start in range(positions.start, positions.stop, STEP):  # as programs do: some at a time
            some = np.arange(start, min(start + STEP, positions.stop))
            moved = memory[source[some // PAGE], some % PAGE]
            some -= drop
            memory[target[some // PAGE], some % PAGE] = moved

    def sequence(self) -> Sequence:
        return Sequence(self.pools, POSITIONS, nullcontext, self._move)

    def write(self, sequence: Sequence, text: list[int], count: int) -> None:
        """`count` new tokens, in steps."""
        sequence.reserve(count)
        for start in range(0, count, STEP):
            some = min(STEP, count - start)
            sequence.reserve(some)
            for cache, memory, table in zip(self.caches, self.pages, sequence.table, strict=True):
                for at in range(sequence.n_past, sequence.n_past + some):
                    if not isinstance(cache, State):
                        memory[table[at // PAGE], at % PAGE] = self._next + at - sequence.n_past
            text.extend(range(self._next, self._next + some))
            self._next += some
            for memory, table, cache in zip(self.pages, sequence.table, self.caches, strict=True):
                if isinstance(cache, State):
                    memory[table[0], 0] = text[-1]
            sequence.advance(some)

    def check(self, sequence: Sequence, text: list[int]) -> None:
        """All that the next row sees is there."""
        n = sequence.n_past
        assert n == len(text)
        for cache, memory, table in zip(self.caches, self.pages, sequence.table, strict=True):
            if isinstance(cache, State):
                assert not n or memory[table[0], 0] == text[-1]
                continue
            at = np.arange(max(n + 1 - cache.window, 0) if isinstance(cache, WindowKv) else 0, n)
            assert memory[table[at // PAGE], at % PAGE].tolist() == [text[i] for i in at]

    def used(self) -> list[int]:
        return [pool.pages.count - pool.pages.free for pool in self.pools]


KINDS: list[Cache] = [Kv(), Latent(), WindowKv(1), WindowKv(5), WindowKv(200), WindowKv(3 * PAGE)]


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_whatever_is_done_the_next_row_sees_its_window(data: Any) -> None:
    memory = Memory(data.draw(st.lists(st.sampled_from(KINDS), min_size=1, max_size=3, unique=True)), 4)
    held = [(memory.sequence(), list[int]())]
    for _ in range(data.draw(st.integers(1, 20))):
        which = data.draw(st.integers(0, len(held) - 1))
        sequence, text = held[which]
        n, least = sequence.n_past, sequence.rewinds_to()
        back = data.draw(st.sampled_from([0, least, n, *(cut for cut in (n - 1, n - 40, n - PAGE) if cut >= least)]))
        move = data.draw(st.sampled_from(["write", "write", "write", "truncate", "fork", "shift", "restore", "close"]))
        if move == "write":
            memory.write(sequence, text, min(data.draw(st.sampled_from([1, 30, 127, 128, 300, 700])), POSITIONS - n))
        elif move == "truncate":
            sequence.truncate(back)
            del text[back:]
        elif move == "fork" and len(held) < 3:
            held.append((sequence.fork(back), text[:back]))
        elif move == "shift":
            keep = data.draw(st.integers(0, n))
            drop = data.draw(st.integers(0, n - keep))
            try:
                sequence.shift(keep, drop)
            except GGUFError:  # nothing has changed
                assert any(n - drop < keep + window for window in windows(memory))
            else:
                del text[keep : keep + drop]
        elif move == "restore":
            checkpoint, before = sequence.checkpoint(), list(text)
            memory.write(sequence, text, min(300, POSITIONS - n))
            sequence.restore(checkpoint)
            text[:] = before
            memory.check(checkpoint, before)
            checkpoint.close()
        elif move == "close" and len(held) > 1:
            held.pop(which)[0].close()
        for one, its in held:
            memory.check(one, its)
    for sequence, _ in held:
        sequence.close()
    assert memory.used() == [0] * len(memory.caches)


def windows(memory: Memory) -> list[int]:
    return [cache.window for cache in memory.caches if isinstance(cache, WindowKv)]


@pytest.mark.parametrize("window", [1, 2, 100, 128, 129, 200])
@pytest.mark.parametrize("step", [1, 7, STEP])
def test_a_long_text_takes_the_pages_of_a_window(window: int, step: int) -> None:
    memory, text, most = Memory([WindowKv(window)], 2), list[int](), 0
    one = memory.sequence()
    while one.n_past < POSITIONS - step:
        memory.write(one, text, step)
        most = max(most, *memory.used())
        assert one.rewinds_to() <= max(one.n_past - step - PAGE, 0)
    memory.check(one, text)
    assert most <= WindowKv(window).most(POSITIONS, step) <= (window + step) // PAGE + 5


@pytest.mark.parametrize("cut", [-1, 0, 1])
def test_back_to_where_the_window_is_held(cut: int) -> None:
    memory, text = Memory([Kv(), WindowKv(200)], 2), list[int]()
    one = memory.sequence()
    memory.write(one, text, 1000)
    least = one.rewinds_to()
    # The last step began at 950; what its first row saw, and a page: 950 + 1 - 200 - 128 = 623, in page 4 from 512 on.
    assert least == 512 + 200 - 1
    assert [one.keepable(n) for n in (least - 1, least, 1000, 1001)] == [0, least, 1000, 0]
    assert one.needs_checkpoints
    if cut < 0:
        for change in (one.truncate, one.fork):
            with pytest.raises(GGUFError, match=r": layers that see 200 positions have forgotten .* 711 to 1000"):
                change(least + cut)
        memory.check(one, text)
        return
    other = one.fork(least + cut)
    memory.check(other, text[: least + cut])
    one.truncate(least + cut)
    memory.check(one, text[: least + cut])
    assert one.rewinds_to() == least
    one.truncate(0)
    assert one.rewinds_to() == 0
    memory.check(one, [])


@pytest.mark.parametrize(("keep", "drop"), [(0, 300), (1, 300), (1, 256), (500, 127), (0, 1000), (512, 3), (800, 2)])
def test_a_shift_moves_the_window(keep: int, drop: int) -> None:
    memory, text = Memory([WindowKv(150), Kv()]), list[int]()
    one = memory.sequence()
    memory.write(one, text, 1000)
    one.shift(keep, drop)
    memory.check(one, [*text[:keep], *text[keep + drop :]])
    assert one.rewinds_to() <= one.n_past


def test_a_shift_that_would_leave_less_than_the_window_is_refused() -> None:
    memory, text = Memory([Kv(), WindowKv(150)]), list[int]()
    one = memory.sequence()
    memory.write(one, text, 1000)
    with pytest.raises(GGUFError, match="layers that see 150 positions do not hold those before"):
        one.shift(300, 600)
    memory.check(one, text)
    one.shift(300, 1000 - 300 - 150)
    memory.check(one, text[:300] + text[-150:])


def test_keys_that_change_after_they_were_turned_stay_where_they_are() -> None:
    memory, text = Memory([FixedKv()]), list[int]()
    one = memory.sequence()
    memory.write(one, text, 300)
    with pytest.raises(GGUFError, match="layers that change keys after they have been turned cannot forget"):
        one.shift(0, 10)
    one.truncate(200)
    memory.check(one, text[:200])


@pytest.mark.parametrize("late", [False, True])
def test_norms_before_and_after_rotation_make_different_layers(late: bool) -> None:
    h, rope = Heads(2, 2, 32, 32), Rope(32, 10000.0)
    norm, turn = Norm("k", None, "k", 1e-5, 2, length=32), Rotate("k", 2, 32, rope)
    both = (turn, norm) if late else (norm, turn)
    product = MatMul("x", Weight("k", (64, 64)), "k")
    ops = (product, *both, StoreKv(0, "k", "k", h), Attend(0, "k", "y", h, 1.0))
    plan = Plan(CONTEXT, VOCABULARY, Embed(Weight("e", (VOCABULARY, 64)), "x"), (ops,), ())
    assert layers_by_cache(plan, CONTEXT, 1) == {(FixedKv() if late else Kv()): [0]}


def test_a_state_goes_back_to_checkpoints_alone() -> None:
    memory, text = Memory([State(), Kv()], 3), list[int]()
    one = memory.sequence()
    memory.write(one, text, 200)
    assert (one.rewinds_to(), one.keepable(199), one.needs_checkpoints) == (200, 0, True)
    with pytest.raises(GGUFError, match="cannot keep 199 positions of 200: recurrent layers have forgotten"):
        one.truncate(199)
    with pytest.raises(GGUFError, match="recurrent layers cannot forget what is in the middle"):
        one.shift(0, 10)
    memory.check(one, text)
    checkpoint, before = one.checkpoint(), list(text)
    memory.write(one, text, 300)
    other, its = checkpoint.fork(200), list(before)
    memory.write(other, its, 5)
    for sequence, tokens in ((one, text), (other, its), (checkpoint, before)):
        memory.check(sequence, tokens)
    one.restore(checkpoint)
    memory.check(one, before)
    one.truncate(0)
    assert memory.used()[0] == 2  # one a sequence
    checkpoint.close()
    with pytest.raises(GGUFError, match="checkpoint has been closed"):
        one.restore(checkpoint)
    with pytest.raises(GGUFError, match="belongs to another model"):
        one.restore(Memory([Kv()]).sequence())


def test_what_an_interrupted_shift_leaves_can_be_used() -> None:
    memory, text = Memory([WindowKv(150)]), list[int]()
    one = memory.sequence()
    memory.write(one, text, 1000)

    def interrupted(*given: Any) -> None:
        raise KeyboardInterrupt

    one._move = interrupted
    with pytest.raises(KeyboardInterrupt):
        one.shift(1, 300)
    assert one.n_past == 0
    text.clear()
    memory.write(one, text, 700)
    memory.check(one, text)


def test_a_pool_that_is_full_is_said_so() -> None:
    memory = Memory([Kv(), WindowKv(1)])
    one, other = memory.sequence(), memory.sequence()
    memory.write(one, [], POSITIONS)
    with pytest.raises(GGUFError, match="cache is full"):
        other.reserve(1)
    assert (one.wants(0), other.wants(1), other.wants(STEP + PAGE)) == (0, 1, 2)


# -- plans on the CPU ----------------------------------------------------------------------------------------

LONG, SHORT_STEP = 900, 32
TEXT = np.random.default_rng(8).integers(0, 50, LONG).tolist()


@st.composite
def long_plans(draw: Any) -> Plan:
    return replace(Maker(draw, (0, 1, 5, 128, 140, 300)).plan(), context=1024)


def engine_of(plan: Plan, n_batch: int, sequences: int = 1, ends: tuple[int, ...] | None = None) -> Engine:
    """An engine of random weights; with `ends`, of a program for each part."""
    file, options, kernels = source_of(plan), EngineOptions(n_threads=2, n_parallel=sequences), library(BEST)
    load_kernels(file, plan, options, kernels)
    whole = Model(file, plan, options, kernels)
    if ends is None:
        return Engine(whole, n_batch)
    return Engine(SplitModel([Model(file, part, options, kernels) for part in split_at(plan, *ends)]), n_batch)


def feed(engine: Engine, sequence: Sequence, tokens: list[int]) -> Any:
    """All logits."""
    steps = [tokens[i : i + engine.rows] for i in range(0, len(tokens), engine.rows)]
    return np.concatenate([engine.step([Chunk(sequence, part, "all")])[0] for part in steps])


@settings(max_examples=8, deadline=None, suppress_health_check=list(HealthCheck))
@given(plan=long_plans())
def test_long_texts_are_as_the_interpreter_and_a_model_that_keeps_all_have_them(plan: Plan) -> None:
    weights = {name: tensor.to_numpy() for name, tensor in source_of(plan).tensors.items()}
    exact = Interpreter(plan, weights).logits(TEXT)
    few, all_kept = engine_of(plan, SHORT_STEP), engine_of(plan, 1024)
    assert [group.cache for group in all_kept._program.groups] == [Kv()]
    found = feed(few, few.sequence(), TEXT)
    np.testing.assert_array_equal(found, feed(all_kept, all_kept.sequence(), TEXT))
    error = np.sqrt(((exact - found) ** 2).mean(axis=1)).max() / exact.std()
    few.close()
    all_kept.close()
    assert error < 0.02  # of a token; keys and values are kept as f16


class Fixed:
    """Draws that take turns: geometries and windows differ from layer to layer."""

    def __init__(self) -> None:
        self._turns: dict[str, int] = {}

    def __call__(self, strategy: Any) -> Any:
        of = tuple(strategy.elements)
        turn = self._turns[repr(of)] = self._turns.get(repr(of), -1) + 1
        return 3 if of == (2, 1, 3) else of[turn % len(of)]


def mixed() -> Plan:
    """Three layers: windows of none, 20 and 300 positions, heads of two geometries."""
    return replace(Maker(Fixed(), (0, 20, 300)).plan(), context=1024)


def test_groups_of_a_plan() -> None:
    plan = mixed()
    assert layers_by_cache(plan, 1024, SHORT_STEP) == {Kv(): [0], WindowKv(20): [1], WindowKv(300): [2]}
    assert layers_by_cache(plan, 640, SHORT_STEP) == {Kv(): [0, 2], WindowKv(20): [1]}  # 300 and more would take all
    assert layers_by_cache(plan, CONTEXT, 64) == {Kv(): [0, 1, 2]}


def test_a_split_plan_has_the_groups_of_its_parts() -> None:
    plan, found = mixed(), []
    for ends in (None, (1,), (1, 2)):
        engine = engine_of(plan, SHORT_STEP, 2, ends)
        one = engine.sequence()
        logits = [feed(engine, one, TEXT[:700])]
        other = one.fork(650)
        logits.append(feed(engine, other, TEXT[:40]))
        one.shift(3, 200)
        logits.append(feed(engine, one, TEXT[:40]))
        found.append((engine.kv_bytes, np.concatenate(logits)))
        assert [group.cache for group in engine._program.groups] == [Kv(), WindowKv(20), WindowKv(300)]
        engine.close()
    for nbytes, logits in found[1:]:
        assert nbytes == found[0][0]
        np.testing.assert_array_equal(logits, found[0][1])


def test_what_is_gone_back_to_has_the_bits_that_it_had() -> None:
    engine = engine_of(mixed(), SHORT_STEP, 3)
    one = engine.sequence()
    logits = feed(engine, one, TEXT)
    least = one.rewinds_to()
    assert 0 < least < LONG - SHORT_STEP
    for n in (LONG - 1, LONG - PAGE, least):
        other = one.fork(n)
        np.testing.assert_array_equal(feed(engine, other, TEXT[n : n + 40]), logits[n : n + 40])
        other.close()
    checkpoint = one.checkpoint()
    after = feed(engine, one, TEXT[:100])
    one.restore(checkpoint)
    np.testing.assert_array_equal(feed(engine, one, TEXT[:100]), after)
    one.truncate(0)
    np.testing.assert_array_equal(feed(engine, one, TEXT[:50]), logits[:50])
    engine.close()


@pytest.mark.parametrize(("keep", "drop"), [(0, 30), (10, 277), (128, 16), (5, 1), (300, 256), (60, 0)])
def test_a_shift_is_as_if_positions_had_been_lower(tmp_path: Path, keep: int, drop: int) -> None:
    """With one layer, keys and values do not depend on what was dropped: the outcome is that of the text without it."""
    changes = {"context_length": 1024, "block_count": 1, "attention.sliding_window": 150}
    tokens = np.random.default_rng(keep).integers(0, VOCABULARY, 800).tolist()
    options = EngineOptions(n_threads=2, n_batch=33)
    with gguf.open(write_model(tmp_path / "m", changes)) as file, load(file, options) as session:
        session.eval(tokens)
        session.shift(keep, drop)
        assert session.n_past == 800 - drop
        session.eval([3])
        exact = reference(file, [*tokens[:keep], *tokens[keep + drop :], 3])[-1:]
        assert difference(exact, session.last_logits()[None]) < 5e-3


@pytest.mark.parametrize("level", [BEST, EMULATED], ids=lambda level: level.name)
def test_what_is_read_in_bulk_has_the_same_bits(level: Level, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GGUFPY_ISA", level.name)
    changes = {"context_length": 1024, "attention.sliding_window": 45}
    tokens = np.random.default_rng(1).integers(0, VOCABULARY, 600).tolist()
    found, kept = [], []
    for n_batch in (32, 1024):
        options = EngineOptions(n_threads=2, n_batch=n_batch)
        path = write_model(tmp_path / "m", changes, type_name="F16")
        with gguf.open(path) as file, load(file, options) as session:
            found.append(session.eval_logits(tokens))
            kept.append(session.engine._pools[0].cache)
    assert kept == [WindowKv(45), Kv()]
    np.testing.assert_array_equal(*found)


def test_windows_cost_their_own_memory_alone(tmp_path: Path) -> None:
    sizes = []
    for context in (1024, 4096, 32768):
        changes = {"context_length": context, "attention.sliding_window": 100}
        options = EngineOptions(n_threads=2, n_batch=32)
        with gguf.open(write_model(tmp_path / f"m{context}", changes)) as file, load(file, options) as session:
            sizes.append(session.engine.kv_bytes)
            session.eval([1] * 600)
            assert session.engine._pools[0].pages.count == WindowKv(100).most(context, 32) == 5
    assert len(set(sizes)) == 1


class Greedy:
    """Takes the best token."""

    def accept(self, token: int) -> None:
        """Nothing depends on it."""

    def sample(self, logits: Any) -> int:
        return int(np.argmax(logits))


@pytest.mark.parametrize("same", [0, 1, 300])
def test_a_scheduler_runs_windowed_models(tmp_path: Path, same: int) -> None:
    """Texts that begin alike: what windows have forgotten of one cannot be taken over for another."""
    changes = {"context_length": 1024, "attention.sliding_window": 30}
    begin = np.random.default_rng(9).integers(0, VOCABULARY, same).tolist()
    texts = [[*begin, i, *np.random.default_rng(i).integers(0, VOCABULARY, 420).tolist()] for i in range(5)]
    options = EngineOptions(n_threads=2, n_batch=40, n_parallel=2)
    with gguf.open(write_model(tmp_path / "m", changes)) as file, load(file, options) as session:
        scheduler = Scheduler(session.engine)
        requests = [scheduler.submit(Request(text, Greedy(), limit=8)) for text in texts]
        while not scheduler.idle:
            scheduler.step()
        scheduler.forget()
        for text, request in zip(texts, requests, strict=True):
            session.truncate(0)
            session.eval(text)
            for token in request.produced:
                assert int(np.argmax(session.last_logits())) == token
                session.eval([token])
            assert (len(request.produced), request.finish) == (8, "length")


@pytest.mark.parametrize("keep", [0, 4, 300])
def test_a_full_context_with_windows_is_shifted_or_ends_the_text(tmp_path: Path, keep: int) -> None:
    changes = {"context_length": 800, "attention.sliding_window": 300}
    options = EngineOptions(n_threads=2, n_batch=64)
    with gguf.open(write_model(tmp_path / "m", changes)) as file, load(file, options) as session:
        scheduler = Scheduler(session.engine)
        request = scheduler.submit(Request([1] * 780, Greedy(), limit=60, keep=keep))
        while not scheduler.idle:
            scheduler.step()
    assert request.finish == "length"
    assert len(request.produced) == (21 if keep == 300 else 60)  # 250 of the 300 would be left
