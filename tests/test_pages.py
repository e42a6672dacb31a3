"""Pages: counts follow what owners list, whatever is interrupted or dropped."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ggufpy.errors import GGUFError
from ggufpy.runtime.pages import PAGE, Pages, pages_of


class Holder:
    """Whoever has pages."""

    def __init__(self, pages: Pages) -> None:
        self.pages: tuple[int, ...] = ()
        pages.register(self)


def users(owners: list[Holder], count: int) -> list[int]:
    return [sum(one.pages.count(page) for one in owners) for page in range(count)]


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_counts_follow_the_owners(data: Any) -> None:
    count, copied = 12, []
    pages = Pages(count, lambda source, target: copied.append((source, target)))
    owners: list[Holder] = []
    for _ in range(data.draw(st.integers(1, 30))):
        move = data.draw(st.sampled_from(["new", "grow", "cut", "fork", "own", "drop"]))
        if move == "new" or not owners:
            owners.append(Holder(pages))
            continue
        one = owners[data.draw(st.integers(0, len(owners) - 1))]
        if move == "grow" and pages.free:
            wanted = data.draw(st.integers(1, pages.free))
            pages.assign(one, (*one.pages, *pages.take(wanted)))
        elif move == "cut":
            pages.assign(one, one.pages[: data.draw(st.integers(0, len(one.pages)))])
        elif move == "fork":
            owners.append(Holder(pages))
            pages.assign(owners[-1], one.pages[: data.draw(st.integers(0, len(one.pages)))])
        elif move == "own" and one.pages and pages.free and pages.shared(one.pages[-1]):
            source = one.pages[-1]
            copy = pages.copied(source)
            assert copied[-1] == (source, copy)
            pages.assign(one, (*one.pages[:-1], copy))
        elif move == "drop":
            owners.remove(one)
            del one
        found = users(owners, count)
        assert pages.free == found.count(0)
        assert [pages.shared(page) for page in range(count)] == [n > 1 for n in found]
        assert all(found[page] == 0 for page in pages.take(pages.free))


def test_what_is_taken_and_not_assigned_stays_free() -> None:
    pages = Pages(3, lambda source, target: None)
    assert pages.take(2) == pages.take(2)
    with pytest.raises(GGUFError, match="cache is full: all of its 384 positions are taken"):
        pages.take(4)
    assert pages.free == 3


def test_an_interrupt_in_the_middle_is_made_up_for() -> None:
    class Interrupting(list[int]):
        def __setitem__(self, key: Any, value: Any) -> None:
            raise KeyboardInterrupt

    pages = Pages(4, lambda source, target: None)
    one = Holder(pages)
    pages.assign(one, pages.take(2))
    pages._users = Interrupting(pages._users)
    with pytest.raises(KeyboardInterrupt):
        pages.assign(one, (*one.pages, *pages.take(1)))
    assert pages.free == 4 - len(one.pages)
    assert sorted({*pages.take(pages.free), *one.pages}) == [0, 1, 2, 3]


def test_the_lowest_pages_are_used_first() -> None:
    pages = Pages(5, lambda source, target: None)
    assert pages.take(3) == (0, 1, 2)
    assert [pages_of(n) for n in (0, 1, PAGE, PAGE + 1)] == [0, 1, 1, 2]
