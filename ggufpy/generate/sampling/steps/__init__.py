"""The steps of sampling, a module each, which ends with its class (`step.py`), `STEP`; and in which order they run.

Modules are found by their files. They import NumPy where they compute, because the command line, which asks them for
their options, needs none.
"""

from __future__ import annotations

import pkgutil
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING

from ggufpy.errors import GGUFError
from ggufpy.generate.sampling.step import Last, Step
from ggufpy.support import checks
from ggufpy.support.options import Option, Whole

if TYPE_CHECKING:
    from ggufpy.generate.sampling.options import Sampling

_MOST = 32  # steps that one text may name


@cache
def chain() -> tuple[type[Step], ...]:
    """Every step, by its place."""
    steps = [import_module(f"{__name__}.{module.name}").STEP for module in pkgutil.iter_modules(__path__)]
    return tuple(sorted(steps, key=lambda step: step.PLACE))


@cache
def options() -> tuple[Option, ...]:
    """What sampling can be asked: the order of the steps, then what these declare, by their places."""
    usual = tuple(name for name, step in named().items() if step.USUAL)
    others = ", ".join(name for name in named() if name not in usual)
    order = Option(
        "samplers",
        usual,
        Order(),
        f'what runs, in this order, as in "top_k;temperature", of {", ".join(named())}; what is not named does not run',
        ("--samplers",),
        metavar="NAMES",
        default_text=f"all but {others}, in this order" if others else "all, in this order",
    )
    least = Option(
        "min_keep", 0, Whole(0), "typ_p, top_p, min_p and xtc leave N tokens at least", ("--min-keep",), metavar="N"
    )
    return (order, least, *(option for step in chain() for option in step.OPTIONS))


@cache
def named() -> dict[str, type[Step]]:
    """The steps that `samplers` can name, by their names."""
    return {step.NAME: step for step in chain() if step.NAME}


def wanted(sampling: Sampling) -> list[type[Step]]:
    """The steps that run for `sampling`, in their order; the last one draws."""
    last = next(step for step in chain() if issubclass(step, Last) and step.is_on(sampling))
    first = [step for step in chain() if not step.NAME and not issubclass(step, Last)]
    names = sampling.samplers if last.CHAIN is None else last.CHAIN
    middle = [step for step in map(named().__getitem__, names) if not issubclass(step, Last)]
    return [*(step for step in (*first, *middle) if step.is_on(sampling)), last]


@cache
def _spellings() -> dict[str, str]:
    """Names of steps by all that they are called: as in llama.cpp "_" may be "-" or nothing."""
    return {
        spelling: name
        for name, step in named().items()
        for each in (name, *step.SPELLINGS)
        for spelling in (each, each.replace("_", "-"), each.replace("_", ""))
    }


@cache
def _letters() -> dict[str, str]:
    """Names of steps by their letters."""
    return {step.LETTER: name for name, step in named().items() if step.LETTER}


class Order:
    """Names of steps: a list, or a text with ";" between them, or one of letters; kept as a tuple of names.

    A text that is a name ("temp") is that, and not letters.
    """

    def check(self, name: str, value: object) -> tuple[str, ...]:
        """See Kind."""
        if isinstance(value, str):
            return self.read(value) if ";" in value or _plain(value) in _spellings() else Letters().read(value)
        names = checks.items(name, value, "a list of names of samplers, or a text of them with ; between them")
        return _listed([checks.text(f"{name}[{i}]", each) for i, each in enumerate(names)])

    def read(self, text: str) -> tuple[str, ...]:
        """Names with ";" between them, or none."""
        return _listed([each for each in text.split(";") if each.strip()])


class Letters(Order):
    """Names of steps by their letters, as `--sampler-seq` has them."""

    @property
    def help(self) -> str:
        """The letters and what they stand for."""
        return ", ".join(f"{letter} {name}" for letter, name in _letters().items())

    def read(self, text: str) -> tuple[str, ...]:
        """See Kind."""
        known = _letters()
        if unknown := next((letter for letter in text if letter not in known), None):
            raise GGUFError(f"{checks.shown(text)} names no samplers: {unknown!r} is no letter of {self.help}")
        return _listed([known[letter] for letter in text])


def _plain(name: str) -> str:
    return name.strip().lower()


def _listed(names: list[str]) -> tuple[str, ...]:
    """These steps by their own names."""
    if len(names) > _MOST:
        raise GGUFError(f"samplers has {len(names)} names, and may have {_MOST}")
    known = _spellings()
    if unknown := next((name for name in names if _plain(name) not in known), None):
        raise GGUFError(f"there is no sampler {checks.shown(unknown)}; there are {', '.join(named())}")
    return tuple(known[_plain(name)] for name in names)
