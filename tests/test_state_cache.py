"""What sequences hold, saved as bytes and put back: into other engines, levels, texts cut anywhere."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from engine import BEST, LEVELS, VOCABULARY, write_model
from test_backends import SPLITS, TEXT, engine_of

from ggufpy import format as gguf
from ggufpy import runtime
from ggufpy.backends.cpu.kernels.kv_types import NAMES, PAGE, KvType
from ggufpy.backends.cpu.portable import HeadPages
from ggufpy.errors import GGUFError
from ggufpy.models.ops import Heads
from ggufpy.runtime import Engine, EngineOptions
from ggufpy.runtime.request import Request
from ggufpy.runtime.scheduler import Scheduler
from ggufpy.runtime.snapshots import GroupRows

TOKENS = np.random.default_rng(2).integers(0, VOCABULARY, 400).tolist()
WIDE = {"context_length": 512, "embedding_length": 64}  # heads of 32: what q8_0 and q4_0 want


def opened(path: Path, monkeypatch: pytest.MonkeyPatch, level: str = BEST.name, **options: Any) -> Engine:
    monkeypatch.setenv("GGUFPY_ISA", level)
    with gguf.open(path) as file:
        return runtime.load(file, EngineOptions(n_threads=1, **options))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("state") / "m.gguf", WIDE)


@pytest.fixture(scope="module")
def windowed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    changes = {**WIDE, "context_length": 1024, "attention.sliding_window": 20}
    return write_model(tmp_path_factory.mktemp("state") / "w.gguf", changes)


@pytest.mark.parametrize("kind", NAMES)
@pytest.mark.parametrize("lanes", [4, 8, 16])
def test_rows_are_what_a_page_holds(kind: str, lanes: int) -> None:
    """Against the description of a page in `kernels/kv_types.py`, position by position."""
    rng, heads = np.random.default_rng(lanes), Heads(4, 2, 64, 32)
    pages = HeadPages(heads, KvType(kind), KvType(kind), lanes)
    sizes = KvType(kind).key_page(64, lanes), KvType(kind).value_page(32, lanes)
    keys, values = (rng.integers(0, 60, (2, size), np.uint8) for size in sizes)  # 60: no number without end
    rows = np.empty((PAGE, pages.row_bytes), np.uint8)
    pages.read(keys, values, rows)
    position, head = 37, 1
    tile, lane = keys[head].reshape(PAGE // lanes, -1)[position // lanes], position % lanes
    if KvType(kind).scaled:
        n = KvType(kind).bits * 4
        blocks = tile.reshape(2, -1)
        codes, scales = blocks[:, : n * lanes].reshape(2, n, lanes), blocks[:, n * lanes :].reshape(2, lanes, 2)
        key = np.concatenate([codes[:, :, lane], scales[:, lane]], axis=1).ravel()
    else:
        key = tile.reshape(64, lanes, 2)[:, lane].ravel()
    value = values[head].reshape(PAGE, -1)[position]
    np.testing.assert_array_equal(rows[position, : pages.key_bytes].reshape(2, -1)[head], key)
    np.testing.assert_array_equal(rows[position, pages.key_bytes :].reshape(2, -1)[head], value)
    other = np.zeros_like(keys), np.zeros_like(values)
    pages.fill(*other, rows)
    np.testing.assert_array_equal(other[0], keys)
    np.testing.assert_array_equal(other[1], values)


@pytest.mark.parametrize("kind", ["f16", "bf16", "q8_0", "q4_0"])
def test_a_text_goes_on_in_another_engine_as_it_would_have(
    model: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"cache_type_k": kind, "cache_type_v": kind}
    with opened(model, monkeypatch, **options) as one, opened(model, monkeypatch, **options) as two:
        first = one.sequence()
        one.read(first, TOKENS[:200])
        for n in (1, 127, 128, 200):
            second = two.restored(one.snapshot(first, n), n)
            assert second.n_past == n
            expected = one.read(first.fork(n), TOKENS[n : n + 9], "all")
            np.testing.assert_array_equal(two.read(second, TOKENS[n : n + 9], "all"), expected)
            second.close()
        assert two.free_pages == 4


@pytest.mark.parametrize("level", [level.name for level in LEVELS if level != BEST])
@pytest.mark.parametrize("kind", ["f16", "q8_0", "q4_0"])
def test_vectors_of_another_length_make_the_same_rows(
    model: Path, level: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"cache_type_k": kind, "cache_type_v": kind}
    with opened(model, monkeypatch, **options) as one, opened(model, monkeypatch, level, **options) as two:
        first = one.sequence()
        expected = one.read(first, TOKENS[:200], "all", exact=True)
        saved = one.snapshot(first, 190)
        second = two.restored(saved, 190)
        for before, after in zip(saved, two.snapshot(second, 190), strict=True):
            np.testing.assert_array_equal(before.rows, after.rows)
        found = two.read(second, TOKENS[190:200], "all", exact=True)
        np.testing.assert_allclose(found, expected[190:], atol=1e-2 * np.ptp(expected))


def test_of_a_window_only_what_is_seen_is_saved(windowed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with opened(windowed, monkeypatch, n_batch=64) as one, opened(windowed, monkeypatch, n_batch=16) as two:
        free, first = two.free_pages, one.sequence()
        for n in (1, 19, 20, 128, 147, 148, 276, 277, 300):
            one.read(first, TOKENS[first.n_past : n])
            second = two.restored(one.snapshot(first, n), n)
            assert second.n_past == n
            expected = one.read(first.fork(n), TOKENS[n : n + 5], "all")
            np.testing.assert_array_equal(two.read(second, TOKENS[n : n + 5], "all"), expected)
            second.close()
            assert two.free_pages == free
        one.read(first, TOKENS[300:390])
        (saved,) = one.snapshot(first, 390)
        assert saved.since == (390 + 1 - 20 - PAGE) // PAGE * PAGE
        second = two.restored((saved,), 390)
        assert second.rewinds_to() <= 390 - PAGE
        np.testing.assert_array_equal(two.read(second, TOKENS[390:], "all"), one.read(first, TOKENS[390:], "all"))
        with pytest.raises(GGUFError, match="forgotten"):
            one.snapshot(first, 100)


@pytest.mark.parametrize("name", SPLITS)
def test_layers_on_several_devices(name: str) -> None:
    with engine_of(name) as one, engine_of(name) as two:
        first = one.sequence()
        one.read(first, TEXT[:130])
        second = two.restored(one.snapshot(first, 130), 130)
        np.testing.assert_array_equal(two.read(second, TEXT[130:], "all"), one.read(first, TEXT[130:], "all"))


def broken(saved: GroupRows, what: str) -> GroupRows:
    rows = saved.rows.copy()
    if what == "infinite":
        rows[3, 1] |= 0x7C
        return replace(saved, rows=rows)
    return {
        "fewer positions": replace(saved, rows=rows[1:]),
        "narrower": replace(saved, rows=rows[:, 1:]),
        "a beginning that is wanted": replace(saved, since=5, rows=rows[5:]),
        "a beginning below 0": replace(saved, since=-1, rows=np.vstack([rows[:1], rows])),
        "another type": replace(saved, form=saved.form.replace("f16", "q8_0")),
    }[what]


@pytest.mark.parametrize(
    "what",
    ["infinite", "fewer positions", "narrower", "a beginning that is wanted", "a beginning below 0", "another type"],
)
def test_what_does_not_fit_changes_nothing(model: Path, what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with opened(model, monkeypatch) as engine:
        first = engine.sequence()
        engine.read(first, TOKENS[:150])
        (saved,) = engine.snapshot(first, 150)
        first.close()
        with pytest.raises(GGUFError, match=r"not finite|is damaged|is of a cache of"):
            engine.restored((broken(saved, what),), 150)
        with pytest.raises(GGUFError, match="is of a cache of"):
            engine.restored((saved, saved), 150)
        with pytest.raises(GGUFError, match="the context holds 512"):
            engine.restored((saved,), 513)
        assert engine.free_pages == 4
        text = engine.sequence()
        assert np.isfinite(engine.read(text, TOKENS[:20], "all")).all()


def test_requests_bring_along_what_was_saved(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with opened(model, monkeypatch) as one, opened(model, monkeypatch, n_parallel=2) as two:
        first, second = Scheduler(one), Scheduler(two)
        request = first.submit(Request(TOKENS[:150], saves=True, reuse="any"))
        while not request.done:
            first.step()
        saved = request.saved
        assert saved is not None
        assert saved.tokens == tuple(TOKENS[:150])
        rows: list[Any] = []
        asked = Request(TOKENS[:160], take=lambda at, part: rows.append((at, part.copy())), origin=saved, reuse="any")
        second.submit(asked)
        back = second.submit(Request(TOKENS[:150], saves=True, origin=saved, reuse="any"))
        while not asked.done or not back.done:
            second.step()
        ((at, found),) = rows
        sequence = one.sequence()
        one.read(sequence, TOKENS[:150])
        assert at == 150
        np.testing.assert_array_equal(found, one.read(sequence, TOKENS[150:160], "all"))
        assert back.saved is not None
        np.testing.assert_array_equal(back.saved.groups[0].rows, saved.groups[0].rows)
