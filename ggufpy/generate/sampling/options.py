"""The options of sampling in one frozen object, which is made of what the steps declare.

In: options by name. Out: a `Sampling`. A new step's options are in it without a change here.
"""

from __future__ import annotations

from dataclasses import Field, make_dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from ggufpy.generate.sampling.steps import chain, options
from ggufpy.support.options import Option

_ABOUT = """How the next token is chosen; the defaults are llama.cpp's. Raises GGUFError for a value out of range.

The samplers of a text run in the order that `samplers` gives: a list of names, a text of names with ";" between them,
or one of letters ("edskypmxt" is the usual order). One that is not named does not run, whatever its options say:
without "temperature" temp=0 takes no likeliest token. `logit_bias` comes first and one token is drawn at the end, in
any order. With `mirostat` nothing runs but logit_bias and the temperature.

The same `seed`, prompt and options give the same text, whatever else runs. llama.cpp has other random numbers: its
texts are of the same distribution, but not the same.

What the command line takes several times is a mapping here (`logit_bias`, of token ids) or a list of texts
(`dry_sequence_breakers`). `from_options`, and so the calls of `Llama`, also know options by the names in brackets.

The options in the order of the samplers that they belong to:

"""


def _described(option: Option) -> str:
    """A line about an option."""
    also = f" ({', '.join(option.aliases)})" if option.aliases else ""
    return f"`{option.name}`{also}: {option.full_help}"


class _Checked:
    """What `Sampling` does with its fields."""

    def __post_init__(self) -> None:
        for option in options():
            object.__setattr__(self, option.name, option.check(getattr(self, option.name)))
        for step in chain():
            step.check(self)  # type: ignore[arg-type]  # it is a Sampling

    @classmethod
    def from_options(cls, **given: Any) -> Sampling:
        """Options by name or another name that they have (`temperature` is `temp`); None is the default.

        Raises TypeError for a name that is not known or given twice, GGUFError for a value.
        """
        names = {name: option.name for option in options() for name in (option.name, *option.aliases)}
        values: dict[str, Any] = {}
        for name, value in given.items():
            if name not in names:
                raise TypeError(f"unknown sampling option {name!r}; known: {', '.join(sorted({*names.values()}))}")
            if names[name] in values:
                raise TypeError(f"sampling option {names[name]!r} is given twice (as {name!r} too)")
            values[names[name]] = value
        return Sampling(**{name: value for name, value in values.items() if value is not None})

    def check_tokens(self, n_vocab: int) -> None:
        """Raise GGUFError where an option has a token that is not among `n_vocab`."""
        for step in chain():
            step.check_tokens(self, n_vocab)  # type: ignore[arg-type]


if TYPE_CHECKING:

    class Sampling(_Checked):
        """The options that the library itself reads have their types here; `steps/` declares all of them."""

        __dataclass_fields__: ClassVar[dict[str, Field[Any]]]
        samplers: tuple[str, ...]
        logit_bias: tuple[tuple[int, float], ...]
        seed: int | None

        def __init__(self, **options: Any) -> None: ...

        def __getattr__(self, name: str) -> Any: ...

else:
    Sampling = make_dataclass(
        "Sampling",
        [(option.name, Any, option.default) for option in options()],
        bases=(_Checked,),
        namespace={
            "__module__": __name__,
            "__doc__": _ABOUT + "\n".join(map(_described, options())),
        },
        frozen=True,
        kw_only=True,
    )
