"""Objects that are opened by their constructor, pickled and copied as the arguments that it was given.

What comes out of a pickle, or of `copy.copy` and `copy.deepcopy`, is another object, opened anew: in a child of
multiprocessing's "spawn", on a worker of Ray. The file is found by its path there, or by the name that it was given by.
"""

from __future__ import annotations

import copy
import inspect
import os
import pickle
from typing import Any, TypeVar

from ggufpy.errors import GGUFError
from ggufpy.support import checks

T = TypeVar("T")

PATHS = ("model_path", "lora_path", "draft_model")  # arguments that may be paths: a child may run in another folder


class Reopened:
    """Remembers the arguments of its constructor. `_seed` is what random numbers go on from."""

    _given: tuple[tuple[Any, ...], dict[str, Any]]
    _seed: int | None

    def __new__(cls: type[T], *args: Any, **options: Any) -> T:
        self = super().__new__(cls)  # type: ignore[misc]
        self._given = (args, options)
        return self  # type: ignore[no-any-return]

    def _arguments(self) -> dict[str, Any]:
        """What the constructor was given, by name. Raises GGUFError where it was not the constructor that made this."""
        args, options = self._given
        names = list(inspect.signature(type(self)).parameters)
        given = {**dict(zip(names, args, strict=False)), **options}
        if not given:
            name = type(self).__name__
            raise GGUFError(f"a {name} that was not opened by {name}(...) can be neither pickled nor copied")
        return given

    def __reduce__(self) -> tuple[Any, ...]:
        given = {name: _absolute(value) if name in PATHS else value for name, value in self._arguments().items()}
        for name, value in given.items():
            try:
                pickle.dumps(value)
            except Exception as error:  # whatever an object's own pickling raises
                raise GGUFError(
                    f"the model cannot be pickled: {name} is {checks.shown(value)}, which cannot ({error}); give a "
                    "function or class of a module in its place, or set it after loading"
                ) from None
        return _opened, (type(self), given), {"seed": self._seed}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._seed = state["seed"]

    def __copy__(self) -> Any:
        return _again(self, self._arguments())

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        return _again(self, copy.deepcopy(self._arguments(), memo))


def _again(one: Reopened, given: dict[str, Any]) -> Any:
    """Another like it, with the seed as it is."""
    other = _opened(type(one), given)
    other._seed = one._seed
    return other


def _opened(kind: type[T], given: dict[str, Any]) -> T:
    """Opens one by its arguments."""
    return kind(**given)


def _absolute(value: Any) -> Any:
    """A path of a file that is there, from the root on; other things as they are."""
    if isinstance(value, list | tuple):
        return type(value)(map(_absolute, value))
    if isinstance(value, str | os.PathLike) and os.path.exists(value):
        return os.path.abspath(value)
    return value
