"""How much memory models take: what is reckoned before a load against what the engine has, and how much there is."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from engine import write_model

from ggufpy import format as gguf_format
from ggufpy import hub
from ggufpy.errors import GGUFError
from ggufpy.generate.loading import LoadOptions
from ggufpy.llm import Llama
from ggufpy.server import memory
from ggufpy.server.memory import Needs, needed
from ggufpy.server.settings import AUTO, Bytes, ServerOptions
from ggufpy.support.options import declared


def check(path: Path, options: LoadOptions) -> None:
    """What is reckoned is what an engine of the file has."""
    found = needed(path, options)
    llm = Llama.from_options(path, options)
    try:
        engine: Any = llm.engine
        model, program = engine.model, engine._program
        matrices = sum(matrix.memory.nbytes for matrix in model.matrices.values())
        vectors = sum(region.nbytes for region in model.vectors.values())
        rooms = [room for work in (program._work, program._head) for room in (work.floats, work.codes, work.tiles)]
        buffers = sum(region.nbytes for room in rooms for region in room.values())
        buffers += program._kv.parts.nbytes + program._kv.scratch.nbytes + program._parts.scratch.nbytes
        assert found.cache == engine.kv_bytes
        assert matrices + vectors <= found.weights <= 1.01 * (matrices + vectors) + 64 * len(model.matrices)
        assert 0.99 * buffers <= found.work <= 1.01 * buffers + 4096
        assert found.total == sum(vars(found).values())
    finally:
        llm.close()


SMALL = {"embedding_length": 64, "feed_forward_length": 96, "attention.head_count": 2, "context_length": 512}


@pytest.mark.parametrize(
    ("type_name", "options"),
    [
        ("F32", LoadOptions()),
        ("Q8_0", LoadOptions(n_parallel=5, n_ctx=300)),
        pytest.param(
            "Q4_0",
            LoadOptions(cache_type_k="q8_0", cache_type_v="q4_0", n_batch=32, n_threads=2),
            marks=pytest.mark.slow,
        ),
        pytest.param("F16", LoadOptions(n_parallel=3, n_batch=1), marks=pytest.mark.slow),
    ],
)
def test_what_a_model_takes_is_known_before_it_is_loaded(tmp_path: Path, type_name: str, options: LoadOptions) -> None:
    check(write_model(tmp_path / "m.gguf", SMALL, type_name=type_name), options)


def test_layers_with_windows_keep_less(tmp_path: Path) -> None:
    pytest.importorskip("ggufpy.models.gemma3")
    path = hub.kept("gemma3-270m")
    if path is None:
        pytest.skip("gemma3-270m is not in the cache (ggufpy pull gemma3-270m)")
    small, large = (needed(path, LoadOptions(n_ctx=n_ctx)) for n_ctx in (4096, 8192))
    assert small.cache < large.cache < 1.8 * small.cache
    assert small.weights == large.weights


def test_adapters_and_a_draft_model_count(tmp_path: Path) -> None:
    path = write_model(tmp_path / "m.gguf", SMALL)
    one = needed(path, LoadOptions())
    assert needed(path, LoadOptions(draft_model=str(path))) == one + one
    metadata = {
        "general.architecture": "llama", "general.type": "adapter", "adapter.type": "lora",
        "adapter.lora.alpha": 8.0,
    }  # fmt: skip
    rng = np.random.default_rng(0)
    tensors = {
        "blk.0.attn_q.weight.lora_a": rng.normal(size=(8, 64)).astype(np.float32),
        "blk.0.attn_q.weight.lora_b": rng.normal(size=(64, 8)).astype(np.float32),
    }
    gguf_format.write(tmp_path / "lora.gguf", metadata, tensors)
    with_adapter = LoadOptions(lora=((str(tmp_path / "lora.gguf"), 1.0),))
    assert needed(path, with_adapter).weights >= one.weights + 2 * 4 * 8 * 64
    check(path, with_adapter)


@pytest.mark.parametrize(
    ("changes", "options", "said"),
    [
        ({}, LoadOptions(n_ctx=1024), "a context of 1024 was asked for"),
        ({"attention.head_count": None}, LoadOptions(), "head_count"),
        ({}, LoadOptions(n_parallel=5000), "n_parallel"),
    ],
)
def test_what_cannot_be_run_is_told_as_loading_tells_it(
    tmp_path: Path, changes: dict[str, Any], options: LoadOptions, said: str
) -> None:
    path = write_model(tmp_path / "m.gguf", {**SMALL, **changes})
    with pytest.raises(GGUFError, match=said) as reckoned:
        needed(path, options)
    with pytest.raises(GGUFError) as loaded:
        Llama.from_options(path, options)
    assert str(reckoned.value) == str(loaded.value)


def test_a_huge_context_is_reckoned_and_not_taken(tmp_path: Path) -> None:
    path = write_model(tmp_path / "m.gguf", {**SMALL, "context_length": 1 << 20})
    assert needed(path, LoadOptions(n_parallel=1024)).cache > 1 << 37


def test_needs_add_up() -> None:
    assert Needs(1, 2, 3, 4) + Needs(10, 20, 30, 40) == Needs(11, 22, 33, 44)
    assert Needs(1, 2, 3, 4).total == 10


# -- how much there is --


def put(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def limit(tmp_path: Path, groups: str) -> int:
    """The bound of the groups of a process."""
    put(tmp_path / "self", groups)
    return memory._group_limit(tmp_path / "self", tmp_path / "cgroup")


def test_the_least_bound_of_a_process_groups_counts(tmp_path: Path) -> None:
    root = tmp_path / "cgroup"
    assert memory._group_limit(tmp_path / "none", root) == 0
    assert limit(tmp_path, "0::/\n") == 0
    put(root / "memory.max", "max\n")
    assert limit(tmp_path, "0::/\n") == 0
    put(root / "memory.max", "5000\n")
    assert limit(tmp_path, "0::/\n") == 5000
    put(root / "system.slice" / "memory.max", "3000\n")
    put(root / "system.slice" / "ggufpy.service" / "memory.max", "4000\n")
    assert limit(tmp_path, "0::/system.slice/ggufpy.service\n") == 3000
    assert limit(tmp_path, "0::/elsewhere\n") == 5000
    assert limit(tmp_path, "0::/../../system.slice\n") == 3000  # a group outside of the namespace
    put(root / "memory" / "docker" / "memory.limit_in_bytes", "2000\n")
    put(root / "memory" / "memory.limit_in_bytes", f"{(1 << 63) - 4096}\n")
    assert limit(tmp_path, "12:cpu,cpuacct:/docker\n9:memory:/docker\n0::/\n") == 2000
    assert limit(tmp_path, "9:memory:/\n") == 0
    assert limit(tmp_path, "nonsense\n\n9:memory\n") == 0


def test_a_share_of_what_there_is_may_be_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    assert 1 << 28 < memory.memory_limit() < 1 << 50
    for machine, group, wanted in ((1000, 0, 800), (1000, 500, 400), (0, 500, 400), (0, 0, 0)):
        monkeypatch.setattr(memory, "_machine", lambda size=machine: size)
        monkeypatch.setattr(memory, "_group_limit", lambda size=group: size)
        assert memory.memory_limit() == wanted


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0), ("none", 0), ("auto", AUTO), ("1000", 1000), ("12G", 12 << 30), ("1.5 GiB", 3 << 29),
        ("800m", 800 << 20), ("2kb", 2048), ("1T", 1 << 40),
    ],
)  # fmt: skip
def test_sizes_are_read_as_people_write_them(text: str, size: int) -> None:
    assert Bytes().read(text) == size


@pytest.mark.parametrize("text", ["", "G", "-1", "1 Q", "1e9", "nan", "9" * 50, "99999999T", "١٢"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(GGUFError):
        Bytes().read(text)


def test_options_of_the_server_are_their_own_defaults() -> None:
    for name, each in declared(ServerOptions).items():
        assert each.check(getattr(ServerOptions(), name)) == getattr(ServerOptions(), name)
        assert each.flags
        assert each.help
    assert replace(ServerOptions(), max_memory=5).max_memory == 5
