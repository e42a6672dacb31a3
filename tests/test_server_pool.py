"""Models by name: who waits for a load and who does not, what failures say, when models go."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
import weakref
from collections.abc import Coroutine
from typing import Any

import pytest
from pools import SOON, Clock, Loads, loaded, pool_of, until, use

from ggufpy.errors import GGUFError
from ggufpy.server.problems import Problem
from ggufpy.server.slot import State


def run(test: Coroutine[Any, Any, None]) -> None:
    """Runs a test on an event loop; it must not hang."""
    asyncio.run(asyncio.wait_for(test, 4 * SOON))


def test_all_who_ask_for_a_model_wait_for_one_load() -> None:
    async def test() -> None:
        loads = Loads()
        gate = loads.gate("a")
        async with pool_of(loads) as pool:
            asked = [asyncio.create_task(use(pool, name)) for name in ["a", None, "", "A", "a:latest"] * 5]
            await until(lambda: loads.loads == ["a"])
            await asyncio.sleep(0.02)
            assert not any(task.done() for task in asked)
            gate.set()
            assert set(await asyncio.gather(*asked)) == {"a"}
            assert loads.loads == ["a"]
            assert await use(pool, "a") == "a"
            assert loads.loads == ["a"]

    run(test())


def test_a_slow_load_holds_up_nobody_else() -> None:
    async def test() -> None:
        loads = Loads()
        loads.gate("a")
        async with pool_of(loads) as pool:
            await use(pool, "b")
            slow = asyncio.create_task(use(pool, "a"))
            await until(lambda: "a" in loads.loads)
            assert await use(pool, "b") == "b"  # that is loaded
            assert await use(pool, "c") == "c"  # that loads meanwhile
            assert not slow.done()
            assert pool.state(pool.find("a")) is State.LOADING
            assert pool.progress(pool.find("a")) == ("load", 1, 2)
            assert len(loads.threads) == 3
            loads.gates["a"].set()
            assert await slow == "a"
            assert pool.progress(pool.find("a")) is None

    run(test())


@pytest.mark.parametrize(
    ("error", "status", "code", "said"),
    [
        (GGUFError("tensor blk.0 is cut short"), 500, "model_not_loaded", "a cannot be loaded: tensor blk.0 is cut"),
        (GGUFError("not enough memory for the weights: 9 MiB"), 503, "out_of_memory", "not enough memory"),
        (MemoryError(), 503, "out_of_memory", "MemoryError"),
        (RuntimeError("first\nsecond"), 500, "model_not_loaded", "RuntimeError first"),
    ],
)
def test_a_load_that_fails_says_so_to_all_and_the_next_tries_again(
    error: Exception, status: int, code: str, said: str
) -> None:
    async def test() -> None:
        loads = Loads()
        gate, loads.errors["a"] = loads.gate("a"), [error]
        async with pool_of(loads) as pool:
            asked = [asyncio.create_task(use(pool, "a")) for _ in range(3)]
            await until(lambda: loads.loads == ["a"])
            gate.set()
            results = await asyncio.gather(*asked, return_exceptions=True)
            assert len({id(result) for result in results}) == 3
            for result in results:
                assert isinstance(result, Problem)
                assert (result.status, result.code) == (status, code)
                assert said in result.message
                assert "\n" not in result.message
            assert said in str(pool.failure(pool.find("a")))
            assert not pool.loaded
            assert await use(pool, "a") == "a"
            assert pool.failure(pool.find("a")) is None
            assert loads.loads == ["a", "a"]

    run(test())


def caused(message: str, cause: str) -> GGUFError:
    """An error of the hub with the class of what the network's library has raised."""
    error = GGUFError(message)
    error.__cause__ = ImportError() if cause == "ImportError" else type(cause, (Exception,), {})()
    return error


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (GGUFError("o/r has no .gguf file"), 404),
        (caused("no repository o/r", "RepositoryNotFoundError"), 404),
        (caused("o/r asks for its licence", "GatedRepoError"), 403),
        (caused("a needs huggingface_hub", "ImportError"), 500),
        (caused("could not be fetched", "ConnectTimeout"), 503),
        (OSError("disk is full"), 503),
    ],
)
def test_what_cannot_be_fetched_says_why(error: Exception, status: int) -> None:
    async def test() -> None:
        loads = Loads()
        loads.fetching["a"] = [error]
        async with pool_of(loads) as pool:
            with pytest.raises(Problem) as caught:
                await use(pool, "a")
            assert caught.value.status == status
            assert str(error) in caught.value.message
            assert await use(pool, "a") == "a"

    run(test())


def test_who_goes_while_waiting_does_not_end_the_load_for_others() -> None:
    async def test() -> None:
        loads = Loads()
        gate = loads.gate("a")
        async with pool_of(loads) as pool:
            goes, stays = (asyncio.create_task(use(pool, "a")) for _ in range(2))
            await until(lambda: loads.loads == ["a"])
            goes.cancel()
            with pytest.raises(asyncio.CancelledError):
                await goes
            gate.set()
            assert await stays == "a"

    run(test())


def test_a_load_that_nobody_waits_for_any_more_ends_and_stays_for_its_time() -> None:
    async def test() -> None:
        loads = Loads()
        gate = loads.gate("a")
        async with pool_of(loads) as pool:
            goes = asyncio.create_task(use(pool, "a"))
            await until(lambda: loads.loads == ["a"])
            goes.cancel()
            gate.set()
            await until(lambda: loaded(pool) == {"a"})
            assert pool.loaded[0].users == 0
            assert await use(pool, "a") == "a"
            assert loads.loads == ["a"]

    run(test())


def test_as_many_wait_for_a_load_as_may() -> None:
    async def test() -> None:
        loads = Loads()
        gate = loads.gate("a")
        async with pool_of(loads, queue=2) as pool:
            asked = [asyncio.create_task(use(pool, "a")) for _ in range(loads.places + 2)]
            await until(lambda: loads.loads == ["a"])
            with pytest.raises(Problem) as caught:
                await use(pool, "a")
            assert caught.value.status == 429
            assert int(caught.value.headers["retry-after"]) > 0
            gate.set()
            assert set(await asyncio.gather(*asked)) == {"a"}

    run(test())


def on_clock(test: Coroutine[Any, Any, None]) -> None:
    """Runs a test on an event loop whose time can be put forward."""
    loop = Clock()
    try:
        loop.run_until_complete(test)
    finally:
        loop.close()


async def skip(seconds: float) -> None:
    """Puts the time forward, and lets happen what is due."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, Clock)
    loop.skipped += seconds
    await asyncio.sleep(0.03)


def test_models_go_when_nobody_has_asked_for_them_for_long() -> None:
    async def test() -> None:
        async with pool_of(Loads(), keep_alive=100) as pool:
            await use(pool, "a")
            await skip(60)
            await use(pool, "b")
            assert loaded(pool) == {"a", "b"}
            await skip(39)
            assert loaded(pool) == {"a", "b"}
            await skip(2)
            assert loaded(pool) == {"b"}
            await use(pool, "b")  # from now on again
            await skip(99)
            assert loaded(pool) == {"b"}
            await skip(2)
            assert not pool.loaded

    on_clock(test())


def test_a_model_that_is_used_stays_and_its_time_begins_behind_its_last_request() -> None:
    async def test() -> None:
        async with pool_of(Loads(), keep_alive=10) as pool:
            async with pool.use("a") as served:
                await skip(1000)
                assert loaded(pool) == {"a"}
                assert served.users == 1
                assert served.expires is not None
            await skip(9)
            assert loaded(pool) == {"a"}
            await skip(2)
            assert not pool.loaded
            with pytest.raises(GGUFError, match="closed"):
                served.llm.n_ctx()

    on_clock(test())


def test_requests_say_how_long_a_model_stays() -> None:
    async def test() -> None:
        loads = Loads()
        async with pool_of(loads, keep_alive=10) as pool:
            await use(pool, "a", -1)
            await use(pool, "b", 1000)
            await use(pool, "c", 0)
            await until(lambda: loaded(pool) == {"a", "b"})
            kept = {served.name: served for served in pool.loaded}
            assert kept["a"].expires is None
            assert 990 < (kept["b"].expires or 0) - time.time() <= 1000
            await skip(990)
            assert loaded(pool) == {"a", "b"}
            await skip(20)
            assert loaded(pool) == {"a"}
            await use(pool, "a")  # says nothing: it stays as it was
            await skip(1e6)
            assert loaded(pool) == {"a"}
            await use(pool, "a", 5)
            await skip(6)
            assert not pool.loaded

    on_clock(test())


def test_an_idle_pool_wakes_only_when_a_model_is_to_go() -> None:
    async def test() -> None:
        async with pool_of(Loads(), keep_alive=100) as pool:
            await use(pool, "a")
            await use(pool, "b", -1)
            loop = asyncio.get_running_loop()
            timers = [handle for handle in loop._scheduled if not handle._cancelled]  # type: ignore[attr-defined]
            assert [timer._callback.__name__ for timer in timers] == ["_expire"]
            assert 99 < timers[0].when() - loop.time() <= 100

    on_clock(test())


def test_a_model_is_unloaded_when_it_is_asked_for() -> None:
    async def test() -> None:
        loads = Loads()
        async with pool_of(loads) as pool:
            assert await pool.unload("a")  # is not loaded
            await use(pool, "a")
            assert await pool.unload("a")
            assert not pool.loaded
            async with pool.use("a"):
                assert not await pool.unload("a")  # at work
                assert loaded(pool) == {"a"}
            await until(lambda: not pool.loaded)
            with pytest.raises(Problem, match="no model"):
                await pool.unload("z")

    run(test())


def test_a_load_that_is_to_end_ends_and_who_asks_then_gets_another() -> None:
    async def test() -> None:
        loads = Loads()
        loads.gate("a")
        async with pool_of(loads) as pool:
            goes = asyncio.create_task(use(pool, "a"))
            await until(lambda: loads.loads == ["a"])
            goes.cancel()
            await asyncio.sleep(0)
            ends = asyncio.create_task(pool.unload("a"))
            await asyncio.sleep(0)
            again = asyncio.create_task(use(pool, "a"))
            assert await ends
            await until(lambda: loads.loads == ["a", "a"])
            loads.gates["a"].set()
            assert await again == "a"

    run(test())


def test_who_asks_while_a_model_is_closed_waits_and_gets_a_new_one() -> None:
    async def test() -> None:
        loads = Loads()
        async with pool_of(loads) as pool:
            async with pool.use("a", 0) as served:
                closing, ended = threading.Event(), served.close

                def close() -> None:
                    closing.wait(SOON)
                    ended()

                served.close = close  # type: ignore[method-assign]
            assert pool.state(pool.find("a")) is State.CLOSING
            again = asyncio.create_task(use(pool, "a"))
            assert await use(pool, "b") == "b"  # nobody else waits for that
            assert not again.done()
            closing.set()
            assert await again == "a"
            assert loads.loads.count("a") == 2

    run(test())


def test_the_end_of_a_server_gives_up_its_loads() -> None:
    async def test() -> None:
        loads = Loads()
        loads.gate("a")  # never opened: the load ends by its progress
        async with pool_of(loads) as pool:
            await use(pool, "b")
            asked = asyncio.create_task(use(pool, "a"))
            await until(lambda: "a" in loads.loads)
            await pool.close()
            with pytest.raises(Problem) as caught:
                await asked
            assert caught.value.status == 503
            with pytest.raises(Problem, match="ending"):
                await use(pool, "b")
            assert not pool.loaded
            assert loads.llms[0]._loop is None

    run(test())


def test_a_load_that_outlives_its_event_loop_is_closed() -> None:
    loads = Loads()
    made: list[Any] = []

    async def test() -> None:
        from ggufpy.server import aside

        gate = loads.gate("a")

        def load() -> Any:
            gate.wait(SOON)
            return "a model"

        aside.aside("late", load, made.append)

    asyncio.run(test())
    loads.gates["a"].set()
    end = time.monotonic() + SOON
    while not made and time.monotonic() < end:
        time.sleep(0.002)
    assert made == ["a model"]


def test_many_at_once_get_their_models_whatever_comes_and_goes() -> None:
    async def test() -> None:
        loads = Loads(a=1, b=1, c=1)
        async with pool_of(loads, max_models=2, max_memory=2, queue=1000, keep_alive=0.001) as pool:

            async def one(i: int) -> None:
                async with pool.use("abc"[i % 3], [None, 0, 0.002][i % 7 % 3]) as served:
                    assert served.name == "abc"[i % 3]
                    assert served.llm.n_ctx() == 64  # it is not closed
                    assert len(pool.loaded) <= 2
                    await asyncio.sleep(0.001 * (i % 4))
                    assert served.llm.n_ctx() == 64

            asked = [asyncio.create_task(one(i)) for i in range(200)]
            for task in asked[::5]:
                await asyncio.sleep(0)
                task.cancel()
            results = await asyncio.gather(*asked, return_exceptions=True)
            faults = [one for one in results if one is not None and not isinstance(one, asyncio.CancelledError)]
            assert not faults
            await until(lambda: not pool.loaded)
            await until(lambda: pool.room.taken == 0)
        assert all(llm._loop is None for llm in loads.llms)

    run(test())


def test_what_was_unloaded_is_not_held() -> None:
    async def test() -> None:
        loads = Loads()
        async with pool_of(loads) as pool:
            await use(pool, "a")
            gone = weakref.ref(loads.llms.pop())
            await pool.unload("a")
            await until(lambda: gc.collect() >= 0 and gone() is None)  # its thread ends a moment later

    run(test())
