"""The pool with real files: several models at work at once, unloaded and loaded again, with nothing left behind."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
import time
from collections.abc import Coroutine
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from engine import SIZES, VOCABULARY, weights, write_model
from pools import loaded, pool_of, until, use

from ggufpy import hub
from ggufpy.generate.loading import LoadOptions
from ggufpy.llm import Llama
from ggufpy.server.catalogue import Catalogue, Entry, given_models
from ggufpy.server.folder import Folder
from ggufpy.server.loader import Files
from ggufpy.server.pool import Pool
from ggufpy.server.problems import Problem
from ggufpy.server.served import Served

PROMPTS = [[3, 14, 15, 9, 26], [5, 35, 8], [9, 7, 9, 32, 3, 8, 4, 6]]


def run(test: Coroutine[Any, Any, None]) -> None:
    """Runs a test on an event loop; it must not hang."""
    asyncio.run(asyncio.wait_for(test, 120))


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """A folder with two small models of other weights."""
    write_model(tmp_path / "one.gguf")
    write_model(tmp_path / "two.gguf", tensors=weights(SIZES, VOCABULARY, "F32", seed=7))
    return tmp_path


def files(folder: Path, **options: Any) -> tuple[Files, Catalogue]:
    """A loader of a folder's models."""
    catalogue = Catalogue([], Folder(folder))
    return Files(catalogue, LoadOptions(**{"n_parallel": 2, "n_threads": 2, **options})), catalogue


async def texts(pool: Pool, name: str, prompts: list[list[int]] = PROMPTS) -> list[list[int]]:
    """What a model says to prompts at once."""
    async with pool.use(name) as served:
        return list(await asyncio.gather(*(asyncio.to_thread(said, served.llm, prompt) for prompt in prompts)))


def said(llm: Llama, prompt: list[int]) -> list[int]:
    """The likeliest tokens behind a prompt."""
    return list(llm.generate(prompt, temp=0.0, limit=40))


def alone(path: Path) -> list[list[int]]:
    """What a model says by itself."""
    with Llama.from_options(path, LoadOptions(n_threads=2)) as llm:
        return [said(llm, prompt) for prompt in PROMPTS]


def test_models_at_work_at_once_say_what_they_say_alone(models: Path) -> None:
    wanted = {name: alone(models / f"{name}.gguf") for name in ("one", "two")}
    assert wanted["one"] != wanted["two"]

    async def test() -> None:
        loader, catalogue = files(models)
        async with pool_of(loader, catalogue) as pool:
            for _ in range(3):
                names = ["one", "two"] * 2
                assert await asyncio.gather(*(texts(pool, name) for name in names)) == [wanted[name] for name in names]
            served = {each.name: each for each in pool.loaded}
            assert served["one"].path == models / "one.gguf"
            assert served["one"].memory == loader.need(catalogue.find("one")) > served["one"].llm.engine.kv_bytes
            assert pool.room.taken == sum(each.memory for each in served.values())

    run(test())


def test_a_model_that_was_unloaded_says_the_same_again(models: Path) -> None:
    async def test() -> None:
        loader, catalogue = files(models)
        async with pool_of(loader, catalogue, max_models=1) as pool:
            first = [await texts(pool, name) for name in ("one", "two")]
            assert loaded(pool) == {"two"}
            assert [await texts(pool, name) for name in ("one", "two")] == first

    run(test())


def test_a_file_that_was_replaced_is_loaded_anew(models: Path) -> None:
    other = alone(models / "two.gguf")

    async def test() -> None:
        loader, catalogue = files(models)
        async with pool_of(loader, catalogue) as pool:
            first = await texts(pool, "one")
            os.replace(models / "two.gguf", models / "one.gguf")
            assert catalogue.entries()
            assert await texts(pool, "one") == other != first
            (models / "one.gguf").unlink()
            assert await texts(pool, "one") == other  # it is loaded, and serves on until the next listing
            catalogue.entries()
            with pytest.raises(Problem, match="no model"):
                await use(pool, "one")

    run(test())


def test_models_that_are_loaded_and_idle_take_no_processor(models: Path) -> None:
    async def test() -> None:
        loader, catalogue = files(models)
        async with pool_of(loader, catalogue) as pool:
            await asyncio.gather(texts(pool, "one"), texts(pool, "two"))
            await asyncio.sleep(0.2)  # threads park a moment after a step
            start = time.process_time()
            await asyncio.sleep(1.0)
            assert time.process_time() - start < 0.005  # 0.5 %

    run(test())


def test_files_that_break_are_one_line_and_others_go_on(models: Path) -> None:
    good = (models / "one.gguf").read_bytes()

    async def test() -> None:
        loader, catalogue = files(models)
        (models / "one.gguf").write_bytes(good[:2000])  # behind the listing
        async with pool_of(loader, catalogue) as pool:
            with pytest.raises(Problem) as caught:
                await use(pool, "one")
            assert caught.value.status == 500
            assert caught.value.message.startswith("one cannot be loaded: ")
            assert "\n" not in caught.value.message
            assert await texts(pool, "two")
            (models / "one.gguf").write_bytes(good)
            assert await texts(pool, "one")

    run(test())


def test_a_context_that_never_fits_is_refused_before_it_is_loaded(tmp_path: Path) -> None:
    write_model(tmp_path / "long.gguf", {"context_length": 1 << 20})

    async def test() -> None:
        loader, catalogue = files(tmp_path, n_parallel=64)
        async with pool_of(loader, catalogue, max_memory=1 << 30) as pool:
            with pytest.raises(Problem, match="a smaller context") as caught:
                await use(pool, "long")
            assert caught.value.status == 503

    run(test())


def test_a_load_that_is_given_up_ends_where_it_is(models: Path) -> None:
    async def test() -> None:
        loader, catalogue = files(models)
        async with pool_of(loader, catalogue) as pool:
            await use(pool, "two")
            asked = asyncio.create_task(use(pool, "one"))
            while pool.state(catalogue.find("one")) is None:
                await asyncio.sleep(0)
            await pool.close()
            with suppress(Problem):  # it may have been quicker
                await asked
            assert not pool.loaded
        await until(lambda: not [each for each in threading.enumerate() if each.name.startswith("ggufpy-")])

    run(test())


def descriptors() -> int:
    """How many files this process has open."""
    return len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0


def maps() -> int:
    """How many pieces of memory this process has mapped."""
    path = Path("/proc/self/maps")
    return len(path.read_text().splitlines()) if path.exists() else 0


@pytest.mark.slow
def test_models_that_come_and_go_leave_nothing(models: Path) -> None:
    async def test() -> None:
        loader, catalogue = files(models)
        async with pool_of(loader, catalogue, max_models=1) as pool:

            async def cycle(count: int) -> tuple[int, int, int]:
                for i in range(count):
                    await texts(pool, ("one", "two")[i % 2])
                for name in ("one", "two"):
                    await pool.unload(name)
                await asyncio.sleep(0.1)
                gc.collect()
                return len(threading.enumerate()), descriptors(), maps()

            before = await cycle(4)
            after = await cycle(50)
            assert after[:2] == before[:2]
            assert after[2] <= before[2] + 10

    run(test())


def test_smollm2_by_its_name_beside_another(models: Path) -> None:
    if hub.kept("smollm2") is None:
        pytest.skip("smollm2 is not in the cache (ggufpy pull smollm2)")

    async def test() -> None:
        catalogue = Catalogue(given_models(["smollm2"], [("gpt-4o", "smollm2")]), Folder(models))
        loader = Files(catalogue, LoadOptions(n_ctx=64, n_parallel=2, n_threads=2))
        async with pool_of(loader, catalogue) as pool:
            facts = catalogue.find("SmolLM2-135M-Instruct.Q4_1.gguf").facts()
            assert (facts.architecture, facts.parameters, facts.quantization) == ("llama", 134_515_008, "Q4_1")
            assert (facts.context, facts.vocabulary, facts.template is not None) == (8192, 49152, True)

            async def both() -> tuple[str, list[list[int]]]:
                async with pool.use("gpt-4o:latest") as served:
                    return await asyncio.gather(asyncio.to_thread(answer, served), texts(pool, "one"))

            first = await both()
            assert await pool.unload("smollm2")
            assert await both() == first
            assert first[0].strip()

    run(test())


def answer(served: Served) -> str:
    """A short text."""
    made = served.llm.create_completion("The capital of France is", max_tokens=8, temperature=0)
    return str(made["choices"][0]["text"])


def test_a_fetch_is_said_at_its_start_and_end(
    models: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    catalogue = Catalogue([], None, allow_pull=True)
    loader = Files(catalogue, LoadOptions())
    monkeypatch.setattr(hub, "resolve", lambda name, progress: models / "one.gguf")
    entry: Entry = loader.fetch(catalogue.find("hf:owner/one"), lambda *_: None)
    assert entry.path == models / "one.gguf"
    assert capsys.readouterr().err.splitlines() == ["ggufpy: fetching hf:owner/one", "ggufpy: hf:owner/one is here"]
    assert loader.fetch(entry, lambda *_: None) is entry
    assert not capsys.readouterr().err
