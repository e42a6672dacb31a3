"""Frozen dataclasses with shared methods behave as those of dataclasses do."""

from __future__ import annotations

import copy
import dataclasses
import pickle
from dataclasses import FrozenInstanceError, field, replace
from typing import Any

import pytest

from ggufpy.support.records import dataclass


def _both(make: Any) -> Any:
    """The same class by each of the two decorators."""
    return [make(dataclass), make(dataclasses.dataclass)]


def _plain(decorator: Any) -> Any:
    @decorator(frozen=True)
    class Made:
        a: int
        b: str = "x"
        c: list[int] = field(default_factory=list)
        d: int = field(default=0, compare=False, repr=False)

    return Made


@dataclass(frozen=True)
class Named:
    """Of this module, so that it can be pickled."""

    a: int
    b: tuple[int, ...] = ()


@dataclass(frozen=True)
class Longer(Named):
    c: int = 5


CALLS: list[tuple[tuple[Any, ...], dict[str, Any]]] = [
    ((1,), {}), ((1, "y"), {"c": [2]}), ((), {"a": 3}), ((1, "y", [1], 9), {}),
    ((), {}), ((1,), {"a": 1}), ((1,), {"z": 1}), ((1, "y", [1], 9, 8), {}), ((), {"b": "y"}),
]  # fmt: skip


@pytest.mark.parametrize(("args", "given"), CALLS)
def test_objects_are_made_alike(args: Any, given: Any) -> None:
    results = []
    for cls in _both(_plain):
        try:
            made = cls(*args, **given)
        except TypeError:
            results.append(TypeError)
        else:
            results.append((dataclasses.astuple(made), repr(made)))
    assert results[0] == results[1]


def test_values_are_in_the_order_of_fields() -> None:
    assert list(vars(_plain(dataclass)(d=1, a=2, b="z"))) == ["a", "b", "c", "d"]


def test_comparison_and_hash() -> None:
    for cls in _both(_plain):
        assert cls(1, "y", [1], 3) == cls(1, "y", [1], 4)  # d does not count
        assert cls(1) != cls(2)
        assert cls(1) != (1, "x", [], 0)
        with pytest.raises(TypeError):
            hash(cls(1))  # a list has no hash
    assert hash(Named(1, (2,))) == hash(Named(1, (2,)))
    assert {Named(1): "one"}[Named(1)] == "one"
    assert Named(1) != Longer(1)


def test_each_has_a_list_of_its_own() -> None:
    cls = _plain(dataclass)
    assert cls(1).c is not cls(1).c


def test_nothing_can_be_changed() -> None:
    made = Named(1)
    with pytest.raises(FrozenInstanceError):
        made.a = 2  # type: ignore[misc]
    with pytest.raises(FrozenInstanceError):
        del made.b
    with pytest.raises(FrozenInstanceError):
        made.new = 1  # type: ignore[attr-defined]
    assert replace(made, b=(3,)) == Named(1, (3,))
    assert replace(Longer(1), a=2) == Longer(2, (), 5)


class Wrapped(Named):
    """Not a dataclass itself, with something of its own."""

    def __init__(self, a: int, note: str) -> None:
        self.note = note
        super().__init__(a)


def test_a_subclass_may_have_more() -> None:
    made = Wrapped(3, "text")
    made.note = "other"
    assert (made.a, made.note, made.b) == (3, "other", ())
    with pytest.raises(FrozenInstanceError):
        made.a = 4  # type: ignore[misc]
    del made.note
    assert not hasattr(made, "note")


def test_copies_and_pickles() -> None:
    for made in (Named(1, (2,)), Longer(3)):
        assert copy.deepcopy(made) == made
        assert pickle.loads(pickle.dumps(made)) == made


def test_matching_by_place() -> None:
    match Longer(1, (2,), 3):
        case Longer(a, b, c):
            assert (a, b, c) == (1, (2,), 3)


def test_methods_of_a_class_are_its_own() -> None:
    def make(decorator: Any) -> Any:
        @decorator(frozen=True)
        class Made:
            a: int

            def __post_init__(self) -> None:
                if self.a < 0:
                    raise ValueError("less than nothing")

            def __eq__(self, other: object) -> bool:
                return isinstance(other, Made) and abs(self.a) == abs(other.a)

            def __hash__(self) -> int:
                return 7

            def __repr__(self) -> str:
                return f"<{self.a}>"

        return Made

    for cls in _both(make):
        assert (hash(cls(1)), repr(cls(2)), cls(3) == cls(3)) == (7, "<2>", True)
        with pytest.raises(ValueError, match="less than nothing"):
            cls(-1)


def test_without_comparison_objects_are_themselves() -> None:
    def make(decorator: Any) -> Any:
        @decorator(frozen=True, eq=False)
        class Made:
            a: int

        return Made

    for cls in _both(make):
        one = cls(1)
        assert one == one
        assert one != cls(1)
        assert hash(one) == object.__hash__(one)


def test_fields_of_other_kinds_are_left_to_dataclasses() -> None:
    def make(decorator: Any) -> Any:
        @decorator(frozen=True)
        class Made:
            a: int
            _: dataclasses.KW_ONLY
            b: int = 2
            c: int = field(default=4, init=False)

        return Made

    for cls in _both(make):
        assert (cls(1, b=3).b, cls(1).c) == (3, 4)
        with pytest.raises(TypeError):
            cls(1, c=3)
        with pytest.raises(TypeError):
            cls(1, 3)
