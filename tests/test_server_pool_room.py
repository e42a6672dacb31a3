"""Room for models: what is unloaded for another, who waits, and what is said where there is none."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest
from pools import SOON, Loads, loaded, pool_of, until, use

from ggufpy.server.problems import Problem
from ggufpy.server.slot import State
from ggufpy.support.progress import human_bytes

MB = 1 << 20


def run(test: Coroutine[Any, Any, None]) -> None:
    """Runs a test on an event loop; it must not hang."""
    asyncio.run(asyncio.wait_for(test, 4 * SOON))


def test_another_model_takes_the_place_of_the_one_used_least_recently() -> None:
    async def test() -> None:
        async with pool_of(Loads(), "abcd", max_models=3) as pool:
            for name in "abca":
                await use(pool, name)
            await use(pool, "d")
            assert loaded(pool) == {"a", "c", "d"}
            await use(pool, "b")
            assert loaded(pool) == {"a", "d", "b"}

    run(test())


def test_memory_counts_and_as_many_go_as_must() -> None:
    async def test() -> None:
        async with pool_of(Loads(a=3 * MB, b=3 * MB, c=4 * MB, d=7 * MB), "abcd", max_memory=10 * MB) as pool:
            for name in "abc":
                await use(pool, name)
            assert loaded(pool) == {"a", "b", "c"}
            assert pool.room.taken == 10 * MB
            assert {served.name: served.memory for served in pool.loaded}["c"] == 4 * MB
            await use(pool, "d")
            assert loaded(pool) == {"b", "d"}  # a's and b's 6 are not enough: with c's, b may stay
            await use(pool, "a")
            assert loaded(pool) == {"a", "d"}

    run(test())


def test_no_bound_is_none() -> None:
    async def test() -> None:
        names = "abcdefghij"
        async with pool_of(Loads(**dict.fromkeys(names, 1 << 50)), names, max_models=0, max_memory=0) as pool:
            for name in names:
                await use(pool, name)
            assert loaded(pool) == set(names)

    run(test())


def test_what_never_fits_is_refused_at_once_with_its_numbers() -> None:
    async def test() -> None:
        async with pool_of(Loads(a=11 * MB, b=MB), max_memory=10 * MB) as pool:
            await use(pool, "b")
            with pytest.raises(Problem) as caught:
                await use(pool, "a")
            assert caught.value.status == 503
            assert f"a takes {human_bytes(11 * MB)}, and models may take {human_bytes(10 * MB)}" in caught.value.message
            assert "retry-after" not in caught.value.headers  # waiting changes nothing
            assert loaded(pool) == {"b"}

    run(test())


def test_a_model_at_work_is_not_unloaded_and_who_needs_its_room_waits() -> None:
    async def test() -> None:
        async with pool_of(Loads(), max_models=1) as pool:
            async with pool.use("a"):
                waits = asyncio.create_task(use(pool, "b"))
                await until(lambda: pool.state(pool.find("b")) is State.WAITING)
                await asyncio.sleep(0.02)
                assert loaded(pool) == {"a"}
                assert await use(pool, "a") == "a"  # who has a model goes on with it
                assert not waits.done()
            assert await waits == "b"
            assert loaded(pool) == {"b"}

    run(test())


def test_who_has_waited_too_long_is_told_when_to_come_again() -> None:
    async def test() -> None:
        async with pool_of(Loads(a=6 * MB, b=5 * MB), max_memory=10 * MB, load_wait=0.05) as pool, pool.use("a"):
            with pytest.raises(Problem) as caught:
                await use(pool, "b")
            assert caught.value.status == 503
            assert int(caught.value.headers["retry-after"]) > 0
            sizes = f"{human_bytes(6 * MB)} of {human_bytes(10 * MB)}"
            for part in (f"b ({human_bytes(5 * MB)})", "0.05 s", sizes, "1 of 3 models"):
                assert part in caught.value.message
            assert pool.state(pool.find("b")) is None

    run(test())


def test_who_leaves_the_line_ends_nobody() -> None:
    async def test() -> None:
        async with pool_of(Loads(), max_models=1) as pool:
            async with pool.use("a"):
                goes = asyncio.create_task(use(pool, "b"))
                await until(lambda: pool.state(pool.find("b")) is State.WAITING)
                goes.cancel()
                await until(lambda: pool.state(pool.find("b")) is None)
            await asyncio.sleep(0.02)
            assert loaded(pool) == {"a"}  # nobody wanted its place any more
            assert pool.failure(pool.find("b")) is None

    run(test())


def test_what_fits_does_not_wait_behind_what_does_not() -> None:
    async def test() -> None:
        async with pool_of(Loads(a=5, b=8, c=2), max_memory=10) as pool:
            async with pool.use("a"):
                large = asyncio.create_task(use(pool, "b"))
                await until(lambda: pool.state(pool.find("b")) is State.WAITING)
                assert await use(pool, "c") == "c"
                assert not large.done()
                assert loaded(pool) == {"a", "c"}  # c is kept until its going makes room enough
            assert await large == "b"
            assert loaded(pool) == {"b", "c"}  # a has made room enough

    run(test())


def test_the_line_is_kept_where_others_must_go() -> None:
    async def test() -> None:
        loads = Loads()
        async with pool_of(loads, "abcd", max_models=1) as pool:
            async with pool.use("a"):
                asked = []
                for name in "bcd":
                    asked.append(asyncio.create_task(use(pool, name)))
                    await until(lambda name=name: pool.state(pool.find(name)) is State.WAITING)  # type: ignore[misc]
            await asyncio.gather(*asked)
            assert loads.loads == ["a", "b", "c", "d"]

    run(test())


def test_a_failed_load_gives_its_room_back() -> None:
    async def test() -> None:
        loads = Loads()
        loads.errors["b"] = [MemoryError()]
        async with pool_of(loads, max_models=1) as pool:
            with pytest.raises(Problem):
                await use(pool, "b")
            assert pool.room.taken == 0
            assert await use(pool, "a") == "a"

    run(test())
