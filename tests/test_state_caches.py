"""Caches of states: LlamaRAMCache, LlamaDiskCache and others; bytes that come from anywhere."""

from __future__ import annotations

import json
import os
import pickle
import struct
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xxhash
from engine import VOCABULARY, write_model
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from test_stateful import opened, steps_of, written

from ggufpy import GGUFError, Llama
from ggufpy.api.caches import BaseLlamaCache, LlamaCache, LlamaDiskCache, LlamaRAMCache
from ggufpy.api.lists import LogitsProcessorList, MinTokensLogitsProcessor, StoppingCriteriaList
from ggufpy.generate import snapshots
from ggufpy.generate.snapshots import Saved, decode, encode
from ggufpy.generate.state import LlamaState
from ggufpy.runtime.snapshots import GroupRows, Snapshot

TOKENS = np.random.default_rng(8).integers(0, VOCABULARY, 200).tolist()


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("models") / "m.gguf", {"context_length": 256})


@pytest.fixture
def llm(path: Path) -> Iterator[Llama]:
    with opened(path) as one:
        yield one


def state(tokens: list[int], model: str = "m", width: int = 4) -> LlamaState:
    """A state of no model that there is, of some 300 bytes and 4 · (width + 1) for each token."""
    rows = np.arange(len(tokens) * 4 * width, dtype=np.uint8).reshape(len(tokens), -1)
    saved = Snapshot(tuple(tokens), 0, (), (GroupRows("rows", 0, rows),))
    return LlamaState.of_bytes(encode(Saved(model, 7, saved)))


def cache_of(kind: str, folder: Path, capacity: int = 1 << 20) -> Any:
    return LlamaRAMCache(capacity) if kind == "memory" else LlamaDiskCache(folder / "states", capacity)


def tokens_of(found: LlamaState) -> list[int]:
    return found.input_ids[: found.n_tokens].tolist()


KINDS = pytest.mark.parametrize("kind", ["memory", "disk"])


@KINDS
def test_the_longest_beginning_is_found(kind: str, tmp_path: Path) -> None:
    cache = cache_of(kind, tmp_path)
    assert cache.cache_size == 0
    assert [1, 2] not in cache
    for tokens in ([1, 2, 3], [1, 2, 3, 4, 5], [2, 2], [1, 2, 3, 9, 9, 9]):
        cache[tokens] = state(tokens)
    assert tokens_of(cache[[1, 2, 3, 4, 7]]) == [1, 2, 3, 4, 5]
    assert tokens_of(cache[[1, 2, 3]]) == [1, 2, 3]
    assert tokens_of(cache[np.array([2, 5])]) == [2, 2]
    assert (1, 8) in cache
    assert [7] not in cache
    with pytest.raises(KeyError):
        cache[[7, 1]]
    assert cache.find([1, 2], "m").llama_state == cache[[1, 2]].llama_state
    with pytest.raises(KeyError):
        cache.find([1, 2], "another")


@KINDS
def test_what_was_used_longest_ago_goes(kind: str, tmp_path: Path) -> None:
    size = state([1] * 10, width=50).llama_state_size
    cache = cache_of(kind, tmp_path, 3 * size)
    for first in (1, 2, 3):
        cache[[first] * 10] = state([first] * 10, width=50)
        past(tmp_path)
    assert cache.cache_size == 3 * size
    assert tokens_of(cache[[1]]) == [1] * 10
    cache[[4] * 10] = state([4] * 10, width=50)
    assert [first for first in (1, 2, 3, 4) if [first] in cache] == [1, 3, 4]
    assert cache.cache_size == 3 * size
    cache[[4] * 10] = state([4] * 10, width=50)  # again: no more than before
    assert cache.cache_size == 3 * size
    cache[[5] * 10] = state([5] * 10, width=500)  # more than there is room for
    assert [5] not in cache
    with pytest.raises(GGUFError, match="a cache keeps states"):
        cache[[1]] = b"bytes"


def past(folder: Path) -> None:
    """Makes files a second older, for file systems that count in seconds."""
    for file in folder.rglob("*.ggufstate"):
        time = file.stat().st_mtime_ns - 10**9
        os.utime(file, ns=(time, time))


def test_the_older_name_and_bounds() -> None:
    assert LlamaCache is LlamaRAMCache
    with pytest.raises(GGUFError, match="capacity_bytes is -1"):
        LlamaRAMCache(-1)
    with pytest.raises(GGUFError, match="cache_dir is 5"):
        LlamaDiskCache(5)  # type: ignore[arg-type]


def test_processes_share_a_folder(tmp_path: Path) -> None:
    one, two = LlamaDiskCache(tmp_path / "a" / "b"), LlamaDiskCache(tmp_path / "a" / "b")
    one[[1, 2, 3]] = state([1, 2, 3])
    assert tokens_of(two[[1, 2]]) == [1, 2, 3]
    for file in (tmp_path / "a" / "b").iterdir():
        file.unlink()
    assert [1] not in one
    with pytest.raises(KeyError):
        two[[1]]
    assert not list((tmp_path / "a" / "b").iterdir())


def test_what_others_put_into_the_folder_is_left_out(tmp_path: Path) -> None:
    cache = LlamaDiskCache(tmp_path)
    cache[[1, 2, 3]] = state([1, 2, 3])
    cache[[1, 2]] = state([1, 2])
    good = state([1, 2, 3, 4]).llama_state
    ran = tmp_path / "ran"
    for i, data in enumerate((b"", b"GGUFPYST", pickle.dumps(Bomb(ran)), good[:-1], good + b"x", good[:80])):
        (tmp_path / f"{i:032x}.ggufstate").write_bytes(data)
    (tmp_path / "notes.txt").write_text("no state")
    (tmp_path / f"{99:032x}.ggufstate").mkdir()
    with pytest.warns(UserWarning, match="is not used as a cached state"):
        assert tokens_of(cache[[1, 2, 3, 4]]) == [1, 2, 3]
    assert tokens_of(cache[[1, 2, 3, 4]]) == [1, 2, 3]  # and says so once
    assert not ran.exists()


def test_a_state_that_is_damaged_behind_its_head_gives_way(tmp_path: Path) -> None:
    cache = LlamaDiskCache(tmp_path)
    cache[[1, 2]] = state([1, 2])
    cache[[1, 2, 3]] = state([1, 2, 3])
    (file,) = (file for file in tmp_path.iterdir() if LlamaState.load(file).n_tokens == 3)
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    with pytest.warns(UserWarning, match="is damaged"):
        assert tokens_of(cache[[1, 2, 3]]) == [1, 2]
    assert tokens_of(cache[[1, 2, 3]]) == [1, 2]


class Bomb:
    """What runs something when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def test_folders_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    cache = LlamaDiskCache(tmp_path / "file")
    with pytest.raises(GGUFError, match="cannot make the folder"):
        cache[[1]] = state([1])
    with pytest.raises(GGUFError, match="cannot read the folder"):
        cache[[1]]


# -- with models --


@KINDS
def test_a_prompt_is_loaded_rather_than_evaluated(kind: str, path: Path, tmp_path: Path) -> None:
    cache = cache_of(kind, tmp_path, 1 << 30)
    with opened(path) as writer, opened(path) as reader:
        expected = written(writer, TOKENS[:100], 4)
        writer.set_cache(cache)
        assert writer.cache is cache
        writer.prompt_begins(TOKENS[:100])
        writer.prompt_done([*TOKENS[:100], *expected])
        assert cache.cache_size > 0
        reader.cache = cache
        calls = []
        load = reader.load_state

        def counted(found: LlamaState) -> None:
            calls.append(found)
            load(found)

        reader.load_state = counted  # type: ignore[method-assign]
        reader.set_seed(3)
        reader.prompt_begins(TOKENS[:100])
        assert len(calls) == 1
        assert reader._seed == 3
        assert steps_of(reader, lambda: written(reader, TOKENS[:100], 1)) == 1
        assert written(reader, TOKENS[:100], 4) == expected
        reader.prompt_begins(TOKENS[:100])  # it has all of it
        reader.prompt_begins(TOKENS[50:70])
        assert len(calls) == 1
        reader.set_cache(None)
        reader.reset()
        reader.prompt_begins(TOKENS[:100])
        assert reader.n_tokens == 0


@KINDS
@pytest.mark.usefixtures("deadline")
def test_threads_share_a_cache(kind: str, path: Path, tmp_path: Path) -> None:
    prompts = [TOKENS[i : i + 30 + i] for i in range(0, 60, 10)]
    with opened(path) as llm:
        expected = [written(llm, prompt, 5) for prompt in prompts]
    cache = cache_of(kind, tmp_path, 300_000)  # room for some of them
    found: list[list[list[int]]] = []
    with opened(path, n_parallel=2) as llm:
        llm.set_cache(cache)

        def ask() -> None:
            mine = []
            for prompt in prompts:
                llm.prompt_begins(prompt)
                mine.append(written(llm, prompt, 5))
                llm.prompt_done([*prompt, *mine[-1]])
            found.append(mine)

        threads = [threading.Thread(target=ask) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert found == [expected] * 4
    assert 0 < cache.cache_size <= 300_000


def test_what_a_cache_cannot_give_does_not_end_a_completion(llm: Llama, tmp_path: Path) -> None:
    class Own(BaseLlamaCache):
        """A user's, which cannot tell models apart."""

        cache_size = 0

        def __getitem__(self, key: Any) -> LlamaState:
            return state(list(key))

        def __contains__(self, key: Any) -> bool:
            return True

        def __setitem__(self, key: Any, value: LlamaState) -> None:
            raise GGUFError("full")

    llm.set_cache(Own())
    with pytest.warns(UserWarning, match="is not used: the state is not of"):
        llm.prompt_begins(TOKENS[:5])
    first = written(llm, TOKENS[:5], 2)
    with pytest.warns(UserWarning, match="not kept in the cache: full"):
        llm.prompt_done([*TOKENS[:5], *first])
    (tmp_path / "file").write_text("no folder")
    llm.set_cache(LlamaDiskCache(tmp_path / "file"))
    with pytest.warns(UserWarning, match="cannot read the folder"):
        llm.prompt_begins(TOKENS[:5])
    with pytest.raises(GGUFError, match=r"cache is \{\}"):
        llm.set_cache({})  # type: ignore[arg-type]


# -- bytes --


def test_bytes_hold_what_was_put_into_them() -> None:
    rows = np.arange(24, dtype=np.uint8).reshape(3, 8)
    groups = (GroupRows("a", 0, rows), GroupRows("b", 2, rows[:1, :5]), GroupRows("c", 3, rows[:0]))
    saved = Saved("model", 2**63, Snapshot((5, 6, 7), 2, (0.5,), groups), np.array([1, -np.inf], np.float32))
    data = encode(saved)
    found = decode(data)
    assert (found.model, found.seed) == ("model", 2**63)
    assert found.snapshot is not None
    assert (found.snapshot.tokens, found.snapshot.bulk, found.snapshot.scales) == ((5, 6, 7), 2, (0.5,))
    assert [(g.form, g.since, g.rows.tolist()) for g in found.snapshot.groups] == [
        (g.form, g.since, g.rows.tolist()) for g in groups
    ]
    np.testing.assert_array_equal(found.logits, saved.logits)
    # by the description in `snapshots.py`
    magic, version, size, digest = struct.unpack_from("<8sII16s", data)
    head = json.loads(data[32 : 32 + size])
    assert digest == xxhash.xxh3_128_digest(data[32:])
    assert (magic, version, head["tokens"], head["logits"]) == (b"GGUFPYST", 1, 3, 2)
    assert struct.unpack_from("<3i2f", data, 32 + size) == (5, 6, 7, 1.0, -np.inf)
    assert data[32 + size + 20 :] == bytes(range(24)) + bytes(range(5))


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_changed_bytes_are_refused_in_one_line(data: st.DataObject) -> None:
    good = bytearray(state([1, 2, 3]).llama_state)
    kind = data.draw(st.sampled_from(["bytes", "cut", "more", "noise"]))
    if kind == "bytes":
        for _ in range(data.draw(st.integers(1, 4))):
            good[data.draw(st.integers(0, len(good) - 1))] ^= data.draw(st.integers(1, 255))
    elif kind == "cut":
        del good[data.draw(st.integers(0, len(good) - 1)) :]
    elif kind == "more":
        good += data.draw(st.binary(min_size=1, max_size=9))
    else:
        good = bytearray(data.draw(st.binary(max_size=200)))
    assume(bytes(good) != state([1, 2, 3]).llama_state)
    with pytest.raises(GGUFError) as found:
        decode(bytes(good))
    assert "\n" not in str(found.value)


HEAD = {"model": "m", "seed": None, "tokens": 1, "bulk": 0, "scales": [], "logits": 0, "groups": []}


@pytest.mark.parametrize(
    "head",
    [
        b"[" * 60_000, b"1" * 60_000, b"{}", b"[]", b"null", b"\xff", json.dumps({**HEAD, "tokens": 10**30}).encode(),
        json.dumps({**HEAD, "tokens": 2**30, "groups": [{"form": "a", "since": 0, "width": 2**31}]}).encode(),
        json.dumps({**HEAD, "tokens": -1}).encode(), json.dumps({**HEAD, "tokens": True}).encode(),
        json.dumps({**HEAD, "bulk": 2}).encode(), json.dumps({**HEAD, "scales": [float("nan")]}).encode(),
        json.dumps({**HEAD, "groups": [{"form": "a", "since": 2, "width": 1}]}).encode(),
        json.dumps({**HEAD, "groups": {"form": "a"}}).encode(), json.dumps({**HEAD, "groups": [5]}).encode(),
        json.dumps({**HEAD, "model": 5}).encode(), json.dumps({**HEAD, "seed": 2**64}).encode(),
    ],
)  # fmt: skip
def test_heads_that_are_refused(head: bytes) -> None:
    data = snapshots.PREFIX.pack(snapshots.MAGIC, snapshots.VERSION, len(head), bytes(16)) + head + bytes(4)
    with pytest.raises(GGUFError, match=r"the head of the state is damaged|should have"):
        decode(data)


def test_other_versions_and_files_are_named(tmp_path: Path) -> None:
    good = state([1]).llama_state
    for data, why in (
        (b"GGUF" + good, "is no saved state"), (good[:8] + b"\x09" + good[9:], "is of version 9"),
        (good[:12] + b"\xff" * 4 + good[16:], "ends within its head"), (good[:-1], "should have"),
    ):  # fmt: skip
        (tmp_path / "a").write_bytes(data)
        with pytest.raises(GGUFError, match=why) as found:
            LlamaState.load(tmp_path / "a")
        assert str(tmp_path / "a") in str(found.value)
    with pytest.raises(GGUFError, match="cannot read"):
        LlamaState.load("a\0b")
    with pytest.raises(GGUFError, match="path is 5"):
        LlamaState.load(5)  # type: ignore[arg-type]


# -- lists --


def test_lists_of_functions(llm: Llama) -> None:
    processors = LogitsProcessorList([lambda ids, row: row + 1, lambda ids, row: row * 2])
    assert processors([1], 3) == 8
    counts = [0, 0]

    def count(i: int, answer: bool) -> Any:
        def criterion(ids: Any, row: Any) -> bool:
            counts[i] += 1
            return answer

        return criterion

    assert StoppingCriteriaList([count(0, True), count(1, False)])([1], None)
    assert not StoppingCriteriaList([count(1, False)])([1], None)
    assert counts == [1, 2]
    end = written(llm, TOKENS[:8], 3)[1]
    processor = MinTokensLogitsProcessor(4, end)
    found = written(llm, TOKENS[:8], 8, temp=0.0, logits_processor=LogitsProcessorList([processor]))
    assert end not in found[:4]
    with pytest.raises(GGUFError, match="token_eos is 100"):
        written(llm, TOKENS[:8], 1, temp=0.0, logits_processor=MinTokensLogitsProcessor(4, 100))
    with pytest.raises(GGUFError, match="min_tokens is -1"):
        MinTokensLogitsProcessor(-1, 2)
