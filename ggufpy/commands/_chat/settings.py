"""What /params and the command line change: how tokens are chosen, and how answers are made and shown.

In: words such as "temp=0.3", or values by name. Out: a `Settings`, checked as `ggufpy.Sampling` checks.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import field, replace
from types import MappingProxyType
from typing import Any

from ggufpy.errors import GGUFError
from ggufpy.generate.sampling import Sampling
from ggufpy.generate.sampling.steps import options as sampling_options
from ggufpy.support import checks
from ggufpy.support.options import Option, Text, Whole, declared, option
from ggufpy.support.records import dataclass

SEEDS = 1 << 32


class Choice:
    """One of some words."""

    def __init__(self, *words: str) -> None:
        self.words = words

    def check(self, name: str, value: object) -> str:
        """See ggufpy.support.options.Kind."""
        if value not in self.words:
            raise GGUFError(f"{name} is {checks.shown(value)}; it can be {', '.join(self.words)}")
        return str(value)

    def read(self, text: str) -> str:
        """See Kind."""
        if text not in self.words:
            raise GGUFError(f"{text!r} is none of {', '.join(self.words)}")
        return text


class Switch:
    """On or off."""

    def check(self, name: str, value: object) -> bool:
        """See Kind."""
        return checks.flag(name, value)

    def read(self, text: str) -> bool:
        """See Kind."""
        return Choice("on", "off").read(text.lower()) == "on"


class Variables:
    """Variables of the chat template."""

    def check(self, name: str, value: object) -> Mapping[str, Any]:
        """See Kind."""
        given = checks.mapping(name, value)
        if not all(isinstance(key, str) and key for key in given):
            raise GGUFError(f"{name} is {checks.shown(value)}; the names in it must be texts")
        return MappingProxyType(dict(given))

    def read(self, text: str) -> Mapping[str, Any]:
        """See Kind."""
        import json

        try:
            value = json.loads(text, parse_constant=_no_number)
        except (ValueError, RecursionError) as error:
            raise GGUFError(f"{text!r} is not JSON ({error})") from None
        if not isinstance(value, dict):
            raise GGUFError(f'{text!r} is not a JSON object, such as {{"enable_thinking": false}}')
        return self.check("the value", value)


@dataclass(frozen=True)
class ChatOptions:
    """How answers are made, beside sampling, and shown."""

    max_tokens: int = option(
        -1, Whole(-1), "tokens of an answer at most", "-n", "--predict", metavar="N", default_text="-1, no limit"
    )
    reasoning: str = option(
        "auto",
        Choice("on", "off", "auto"),
        "whether the model thinks first, where its template has a switch for it",
        "-rea",
        "--reasoning",
        metavar="on|off|auto",
        default_text="auto, what the template does",
    )
    reasoning_effort: str | None = option(
        None,
        Text(),
        "how much it thinks, where its template has levels (low, medium, high)",
        "--reasoning-effort",
        metavar="LEVEL",
        default_text="the template's",
    )
    chat_template_kwargs: Mapping[str, Any] | None = option(
        None,
        Variables(),
        "further variables of the chat template, a JSON object",
        "--chat-template-kwargs",
        metavar="JSON",
        default_text="none",
    )
    thoughts: str = option(
        "show",
        Choice("show", "fold", "hide"),
        "what is seen of the model's thoughts: all, how long they are, nothing",
        "--thoughts",
        metavar="show|fold|hide",
        default_text="show, without a terminal hide",
    )
    markdown: bool = option(True, Switch(), "draw Markdown; off: the text as it stands", metavar="on|off")
    timings: bool = option(True, Switch(), "a line of counts below an answer", metavar="on|off")

    def __post_init__(self) -> None:
        for each in declared(ChatOptions).values():
            object.__setattr__(self, each.name, each.check(getattr(self, each.name)))


@dataclass(frozen=True)
class Settings:
    """All that can be changed. `sampling` holds what differs from the defaults; raises GGUFError for a value."""

    sampling: Mapping[str, Any] = field(default_factory=dict)
    chat: ChatOptions = field(default_factory=ChatOptions)

    def __post_init__(self) -> None:
        chosen = Sampling.from_options(**self.sampling)
        kept = {each.name: getattr(chosen, each.name) for each in sampling_options()}
        given = {each.name: kept[each.name] for each in sampling_options() if kept[each.name] != each.default}
        object.__setattr__(self, "sampling", MappingProxyType(given))

    def check_tokens(self, n_vocab: int) -> None:
        """Raises GGUFError for an option with a token that the model does not have."""
        Sampling.from_options(**self.sampling).check_tokens(n_vocab)

    @property
    def is_certain(self) -> bool:
        """Whether nothing is drawn by chance: as far as the temperature says."""
        return bool(Sampling.from_options(**self.sampling).temp <= 0)

    def request(self, attempt: int = 0) -> dict[str, Any]:
        """Options of `Llama.create_chat_completion`. A further `attempt` has another seed, where one is set."""
        made = dict(self.sampling)
        if attempt and isinstance(made.get("seed"), int) and made["seed"] >= 0:
            made["seed"] = (made["seed"] + attempt) % SEEDS
        if self.chat.max_tokens > 0:
            made["max_tokens"] = self.chat.max_tokens
        if self.variables:
            made["chat_template_kwargs"] = self.variables
        return made

    @property
    def variables(self) -> dict[str, Any]:
        """Variables of the chat template. `enable_thinking` is what templates with a switch call it (llama.cpp:
        common/chat.cpp)."""
        made = dict(self.chat.chat_template_kwargs or {})
        if self.chat.reasoning != "auto":
            made["enable_thinking"] = self.chat.reasoning == "on"
        if self.chat.reasoning_effort is not None:
            made["reasoning_effort"] = self.chat.reasoning_effort
        return made

    def with_words(self, words: Sequence[str]) -> Settings:
        """With what "name=value" words say; "name=default" takes a change back. Raises GGUFError for any of them."""
        values: dict[str, Any] = {}
        for word in words:
            name, equals, text = word.partition("=")
            known = _named(name)
            if not equals:
                raise GGUFError(f"{name} needs a value: /params {known.name}={known.metavar}")
            values[known.name] = known.default if text == "default" else _read(known, text)
        return self.with_values(values)

    def with_values(self, values: Mapping[str, Any]) -> Settings:
        """With values by name. Raises GGUFError for a name or a value that cannot be."""
        for name in values:
            _named(name)
        own = {name: value for name, value in values.items() if name in declared(ChatOptions)}
        rest = {name: value for name, value in values.items() if name not in own}
        return Settings({**self.sampling, **rest}, replace(self.chat, **own))

    def values(self) -> dict[str, Any]:
        """What differs from the defaults, as JSON has it."""
        made = {each.name: getattr(self.chat, each.name) for each in declared(ChatOptions).values()}
        changed = {name: value for name, value in made.items() if value != declared(ChatOptions)[name].default}
        return {name: _plain(value) for name, value in {**self.sampling, **changed}.items()}

    def rows(self) -> Iterator[tuple[str, str, str]]:
        """Every option: its name, its value with a "*" where that is not the default, and what it is."""
        for each in (*declared(ChatOptions).values(), *sampling_options()):
            value = getattr(self.chat, each.name) if each.name in declared(ChatOptions) else self._sampled(each)
            yield each.name, shown(value) + ("" if value == each.default else " *"), each.help

    def _sampled(self, each: Option) -> Any:
        return self.sampling.get(each.name, each.default)


def _no_number(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")


def names() -> list[str]:
    """The names of all options."""
    return [*declared(ChatOptions), *(each.name for each in sampling_options())]


def shown(value: Any) -> str:
    """A value for people."""
    if isinstance(value, bool):
        return "on" if value else "off"
    if value is None or value == ():
        return "-"
    return f"{value:g}" if isinstance(value, float) else str(_plain(value))


def _plain(value: Any) -> Any:
    """A value as JSON has it, which has no infinite numbers: they are texts, which the options read too."""
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, tuple):
        return [_plain(each) for each in value]
    return str(value) if isinstance(value, float) and math.isinf(value) else value


def _named(name: str) -> Option:
    """The option of that name, or of another that it has. Raises GGUFError with the nearest."""
    known: dict[str, Option] = {}
    for each in (*declared(ChatOptions).values(), *sampling_options()):
        known |= {alias.lstrip("-"): each for alias in (each.name, *each.aliases, *each.flags)}
        known |= {each.name.replace("_", "-"): each}
    if name in known:
        return known[name]
    near = difflib.get_close_matches(name, known, n=1)
    hint = f" (did you mean {known[near[0]].name}?)" if near else "; /params lists them"
    raise GGUFError(f"no parameter {name!r}{hint}")


def _read(known: Option, text: str) -> Any:
    try:
        value = known.kind.read(text)
    except GGUFError as error:
        raise GGUFError(f"{known.name}: {error}") from None
    return (value,) if known.repeated else value
