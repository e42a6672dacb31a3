"""Texts found by what they begin with, against looking at all of them."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ggufpy.runtime import prefixes
from ggufpy.runtime.pages import PAGE
from ggufpy.runtime.prefixes import Prefixes

STEPS = [0, 1, 5, PAGE - 1, PAGE, PAGE + 1, 2 * PAGE, 3 * PAGE + 7]


def common(a: list[int], b: list[int]) -> int:
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def texts(draw: Any, base: list[int]) -> list[int]:
    """The beginning of a text, and something else behind it."""
    return base[: draw(st.sampled_from(STEPS))] + [draw(st.integers(0, 2))] * draw(st.sampled_from(STEPS))


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_the_longest_is_found(data: Any) -> None:
    base = [i * i % 7 for i in range(4 * PAGE)]
    known: dict[str, list[int]] = {}
    found: Prefixes[str] = Prefixes()
    for i in range(data.draw(st.integers(1, 8))):
        move = data.draw(st.sampled_from(["add", "grow", "remove"]))
        if move == "add" or not known:
            known[f"t{i}"] = texts(data.draw, base)
            found.grow(f"t{i}", known[f"t{i}"])
            continue
        name = data.draw(st.sampled_from(sorted(known)))
        if move == "grow":
            known[name] = known[name] + texts(data.draw, base)
            found.grow(name, known[name])
        else:
            del known[name]
            found.remove(name)
            found.remove(name)  # twice is fine
    assert len(found) == len(known)
    wanted = texts(data.draw, base)
    most = max((common(text, wanted) for text in known.values()), default=0)
    best = found.longest(wanted)
    if not most:
        assert best is None
        return
    assert best is not None
    assert best[1] == most == common(known[best[0]], wanted)


def test_nothing_is_left_of_a_text_that_was_removed() -> None:
    found: Prefixes[str] = Prefixes()
    found.grow("a", list(range(3 * PAGE)))
    found.remove("a")
    assert found.longest(list(range(3 * PAGE))) is None
    assert found._owners == {prefixes.START: {}}
    assert found._chains == {}


def test_equal_hashes_share_no_more_than_is_equal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefixes, "hash", lambda value: 1, raising=False)
    found: Prefixes[str] = Prefixes()
    found.grow("a", [1] * PAGE + [2] * PAGE)
    assert found.longest([1] * 5 + [3] * (2 * PAGE)) == ("a", 5)
    assert found.longest([4] * (2 * PAGE)) is None
