"""What one call asks for: every field checked before anything is evaluated, one line for each that cannot be.

In: the arguments of `create_completion` and `create_chat_completion`. Out: an `Asked`.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import field, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable
from uuid import uuid4

from ggufpy.api.openai.formats import answer_grammar
from ggufpy.api.openai.model import Model, Record
from ggufpy.errors import GGUFError
from ggufpy.generate.loaded import NEW_SEED
from ggufpy.support import checks
from ggufpy.support.records import dataclass

if TYPE_CHECKING:
    from ggufpy.api.openai.prompts import ChatPrompt
    from ggufpy.chat.syntax import Piece
    from ggufpy.chat.tools import Offer
    from ggufpy.generate.sampling import Guides, Sampling
    from ggufpy.runtime.request import Reuse

MOST_CHOICES = 1024
WANTED = "a function or a list of functions"
SEEDS = 1 << 64
RENDERED = frozenset({"self", "messages", "offer", "tools"})  # what a template is given of it is said elsewhere
Criterion = Callable[[Any, Any], bool]  # see `generate/current.py`


class PieceReader(Protocol):
    """Takes an answer apart, as `chat.syntax.Parser` does."""

    def push(self, text: str) -> list[Piece]:
        """What the text makes certain."""

    def finish(self) -> list[Piece]:
        """What its end makes certain."""


class Stopper(Protocol):
    """Cuts a text off, as `StopFilter` does."""

    @property
    def hit(self) -> bool:
        """Whether the text has ended."""

    @property
    def found(self) -> str | None:
        """The string at which it has, if it is one."""

    def push(self, text: str) -> str:
        """Text that has come; returns what can be shown now."""

    def flush(self) -> str:
        """What was held back, once no more text can come."""


@dataclass(frozen=True)
class Prompt:
    """A prompt of a text completion: its tokens, what is said of it before the answer, and how many characters it has
    (`text_offset` counts from its beginning, echoed or not)."""

    tokens: tuple[int, ...]
    echo: str = ""
    start: int = 0


@dataclass(frozen=True)
class Asked:
    """One call. Its choices differ by what `samplings` has for each; `max_tokens` None is no limit, 0 reads the prompt
    and says nothing; `logprobs` None asks for none. `others` are further prompts, each with as many choices as the
    first (`prompts`). `guides` makes what else decides about a text, once for each; `parser` what takes an answer
    apart; `stopper` what ends it, where that is more than the strings of `stop`.

    With a seed or a temperature of 0 the text is the one that the call gives alone, whatever ran before: its prompt
    is cut into tokens afresh, and only what was read in the same way counts as read (`reuse` is "alike").
    """

    tokens: tuple[int, ...]
    samplings: tuple[Sampling, ...]
    max_tokens: int | None
    guides: Callable[[], Guides]
    stop: tuple[str, ...] = ()
    stopper: Callable[[], Stopper] | None = None
    criteria: tuple[Criterion, ...] = ()
    scales: tuple[float, ...] | None = None
    reuse: Reuse = "any"  # see `runtime.request.Request`
    logprobs: int | None = None
    echo: str = ""
    start: int = 0
    others: tuple[Prompt, ...] = ()
    suffix: str = ""
    parser: Callable[[], PieceReader] | None = None
    shown: frozenset[int] = frozenset()  # control tokens whose texts the parser wants
    legacy_calls: bool = False  # calls are told as `function_call`
    chat: str | None = None  # the text of a chat's prompt
    include_usage: bool = False
    model: str = ""
    id: str = ""
    created: int = field(default_factory=lambda: int(time.time()))

    @property
    def prompts(self) -> tuple[Prompt, ...]:
        """All prompts; choices are numbered prompt by prompt."""
        return (Prompt(self.tokens, self.echo, self.start), *self.others)

    @property
    def per_prompt(self) -> int:
        """How many choices each prompt has."""
        return len(self.samplings) // (1 + len(self.others))

    def prompt(self, number: int) -> Prompt:
        """The prompt of a choice."""
        place = number // self.per_prompt
        return Prompt(self.tokens, self.echo, self.start) if place == 0 else self.others[place - 1]


def text_request(llm: Model, prompt: str | Sequence[Any], limit: int | None, options: Record) -> Asked:
    """The request behind `create_completion`; takes its own names out of `options`, the rest is sampling. `prompt` is a
    text or token ids, or a list of those."""
    options = dict(options)
    suffix = options.pop("suffix", None)
    echoed = checks.switch("echo", options.pop("echo", None))
    prompts = [_prompt(llm, name, one, suffix, echoed) for name, one in _several(prompt)]
    bos = llm.tokenizer.bos
    if bos is not None and any(one.tokens[:2] == (bos, bos) for one in prompts):
        told = "the prompt has two beginning tokens, and models write worse then: leave out the one in the text"
        warnings.warn(told, RuntimeWarning, stacklevel=4)
    logprobs = _alternatives(llm, "logprobs", options.pop("logprobs", None))
    guides = _guides(llm, options, None)
    first, *others = prompts
    for one in others:
        llm.check_prompt(one.tokens)
    fixed = {"echo": first.echo, "start": first.start, "logprobs": logprobs, "guides": guides, "suffix": suffix or ""}
    return _request(llm, list(first.tokens), limit, options, "cmpl", **fixed, others=tuple(others))


def chat_request(llm: Model, messages: Sequence[Mapping[str, Any]], limit: int | None, options: Record) -> Asked:
    """The request behind `create_chat_completion`."""
    from ggufpy.chat import tools

    options = dict(options)
    limit = _limit(limit, options.pop("max_completion_tokens", None))
    names = ("tools", "tool_choice", "functions", "function_call", "parallel_tool_calls")
    asked = {name: options.pop(name, None) for name in names}
    offer = tools.offered(**asked)
    logprobs = _chat_logprobs(llm, options)
    variables = _variables(options)
    prompt = llm.chat_prompt(_plain(messages), offer, **variables)
    fixed: Record = {"chat": prompt.text, "logprobs": logprobs, "legacy_calls": asked["functions"] is not None}
    fixed["guides"] = _guides(llm, options, (prompt, offer))
    answers = llm.chat_answers
    fixed["parser"] = partial(answers.syntax.parser, prompt.text, offer.chosen if offer else None)
    fixed["shown"] = answers.shown
    options["stop"] = [*_stops(options.get("stop")), *prompt.stops]
    fixed["alone"] = tuple(prompt.alone)
    return _request(llm, prompt.tokens, limit, options, "chatcmpl", **fixed)


@runtime_checkable
class _Dumped(Protocol):
    """An object of pydantic, as the openai package has for messages and calls."""

    def model_dump(self, *, exclude_none: bool) -> Any: ...


def _plain(messages: Any) -> Any:
    """Messages, and calls in them, that are such objects, as mappings; others as they are."""
    if not isinstance(messages, list | tuple):
        return messages
    made = [_mapping(message) for message in messages]
    for i, message in enumerate(made):
        calls = message.get("tool_calls") if isinstance(message, Mapping) else None
        if isinstance(calls, list | tuple):
            made[i] = {**message, "tool_calls": [_mapping(call) for call in calls]}
    return made


def _mapping(value: Any) -> Any:
    return value.model_dump(exclude_none=True) if isinstance(value, _Dumped) else value


def _limit(most: int | None, newer: int | None) -> int | None:
    """`max_tokens` under either of its names."""
    if newer is None:
        return most
    if most not in (None, newer):
        raise GGUFError("max_tokens and max_completion_tokens are the same: give one of them")
    return checks.whole("max_completion_tokens", newer)


def _several(prompt: Any) -> list[tuple[str, Any]]:
    """The prompts of a call and what errors call them: one, or those of a list of texts or of lists of tokens."""
    if not isinstance(prompt, list | tuple) or not prompt or not isinstance(prompt[0], str | list | tuple):
        return [("prompt", prompt)]
    if len(prompt) > MOST_CHOICES:
        raise GGUFError(f"prompt has {len(prompt):,} of them, and may have {MOST_CHOICES:,}")
    return [(f"prompt[{i}]", one) for i, one in enumerate(prompt)]


def _prompt(llm: Model, name: str, prompt: Any, suffix: str | None, echoed: bool) -> Prompt:
    """A prompt; with a suffix what makes a model fill in between."""
    if suffix is not None:
        tokens = llm.infill_tokens(checks.text(name, prompt), checks.text("suffix", suffix))
        text = str(prompt)
    elif isinstance(prompt, str):
        tokens, text = llm.tokenizer.encode(prompt, add_special=True, parse_special=True), prompt
    else:
        tokens = checks.tokens(name, prompt, llm.n_vocab(), "a text (str) or a list of token ids")
        text = llm.tokenizer.decode(tokens)
    return Prompt(tuple(tokens), text if echoed else "", len(text))


def _variables(options: Record) -> Record:
    """Further variables of the chat template."""
    given = options.pop("chat_template_kwargs", None)
    variables = {} if given is None else dict(checks.mapping("chat_template_kwargs", given))
    for name in variables:
        if checks.text("a name in chat_template_kwargs", name) in RENDERED:
            raise GGUFError(f"chat_template_kwargs has {name!r}, which is not for it: messages and tools are arguments")
    for name in ("reasoning_effort", "documents"):
        if (value := options.pop(name, None)) is not None:
            variables[name] = value
    if checks.switch("continue_final_message", options.pop("continue_final_message", None)):
        variables["continue_final"] = True
    return variables


def _chat_logprobs(llm: Model, options: Record) -> int | None:
    wanted = checks.switch("logprobs", options.pop("logprobs", None))
    top = _alternatives(llm, "top_logprobs", options.pop("top_logprobs", None))
    if top is not None and not wanted:
        raise GGUFError("top_logprobs needs logprobs=True")
    return (top or 0) if wanted else None


def _alternatives(llm: Model, name: str, count: object) -> int | None:
    """How many alternatives to list, if any are."""
    if count is not None and not 0 <= checks.whole(name, count) <= llm.n_vocab():
        raise GGUFError(f"{name} is {count}, and must be how many alternatives to list, 0 or more")
    return None if count is None else checks.whole(name, count)


def _guides(llm: Model, options: Record, chat: tuple[ChatPrompt, Offer | None] | None) -> Callable[[], Guides]:
    """What makes the grammar and the caller's functions of a text."""
    processors = _functions("logits_processor", options.pop("logits_processor", None))
    grammar = answer_grammar(options.pop("response_format", None), options.pop("grammar", None))
    after = None
    if chat is not None:
        prompt, offer = chat
        if grammar is not None and offer is not None and offer.must_call:
            raise GGUFError("tool_choice wants a call, and response_format or grammar another answer: leave out one")
        if grammar is not None:
            after = llm.chat_answers.syntax.answer_after(prompt.text)
        elif offer is not None:
            grammar = llm.chat_answers.syntax.grammar(offer, prompt.text, llm.chat_answers.control)
    first = None if grammar is None else llm.constraint(grammar, after)  # one that cannot be is refused here
    made = [] if first is None else [first]

    def make() -> Guides:
        from ggufpy.generate.sampling import Guides

        if grammar is None:
            return Guides(processors=processors)
        return Guides(made.pop() if made else llm.constraint(grammar, after), processors)

    return make


def _functions(name: str, given: object) -> tuple[Callable[..., Any], ...]:
    """A function or a list of such, as llama-cpp-python's LogitsProcessorList and StoppingCriteriaList are."""
    if given is None:
        return ()
    some = [given] if callable(given) and not isinstance(given, list) else checks.items(name, given, WANTED)
    for function in some:
        if not callable(function):
            raise GGUFError(f"{name} has {checks.shown(function)}; {WANTED} is wanted")
    return tuple(some)


def _request(llm: Model, tokens: list[int], limit: int | None, options: Record, kind: str, **fixed: Any) -> Asked:
    """All that can be wrong with a request is said here; seeds are drawn last. `alone` are the tokens of a prompt that
    must not depend on what was said before."""
    most = None if limit is None else checks.whole("max_tokens", limit)
    alone = fixed.pop("alone", tokens)
    cached = options.pop("cache_prompt", None)
    cached = cached is None or checks.flag("cache_prompt", cached)
    stops = _stops(options.pop("stop", None))
    criteria = _functions("stopping_criteria", options.pop("stopping_criteria", None))
    usage = _include_usage(options.pop("stream_options", None))
    scales = llm.adapter_scales(options.pop("lora", None))
    count = _count(options.pop("n", None))
    user = options.pop("user", None)
    if user is not None:
        checks.text("user", user)
    model = options.pop("model", None)
    if model is not None:
        checks.text("model", model)
    llm.check_prompt(tokens)
    prompts = 1 + len(fixed.get("others", ()))
    if count * prompts > MOST_CHOICES:
        raise GGUFError(f"n is {count} for {prompts} prompts: {MOST_CHOICES:,} texts at most may be asked for at once")
    samplings = tuple(one for _ in range(prompts) for one in _samplings(llm, count, options))
    repeatable = options.get("seed") not in NEW_SEED or samplings[0].temp <= 0
    return Asked(
        tuple(alone if repeatable else tokens),
        samplings,
        most if most is not None and most > 0 else None,
        reuse=("alike" if repeatable else "any") if cached else "none",
        stop=stops,
        criteria=criteria,
        scales=scales,
        include_usage=usage,
        model=model or llm.name,
        id=f"{kind}-{uuid4()}",
        **fixed,
    )


def _count(n: object) -> int:
    count = 1 if n is None else checks.whole("n", n, 1)
    if count > MOST_CHOICES:
        raise GGUFError(f"n is {count}, and may be {MOST_CHOICES} at most")
    return count


def _samplings(llm: Model, count: int, options: Record) -> tuple[Sampling, ...]:
    """One for each choice: a seed that was given is the first one's, and goes up by one from choice to choice."""
    first = llm.sampling(**options)
    if first.seed is None or options.get("seed") is None:
        return (first, *(llm.sampling(**options) for _ in range(count - 1)))
    return tuple(replace(first, seed=(first.seed + i) % SEEDS) for i in range(count))


def _stops(stop: object) -> tuple[str, ...]:
    """Stop strings, from one or some or none."""
    if stop is None or isinstance(stop, str):
        return (stop,) if stop else ()
    stops = tuple(checks.items("stop", stop, "a string or a list of strings"))
    if any(not isinstance(text, str) or not text for text in stops):
        raise GGUFError(f"stop is {checks.shown(stop)}; it must be a string or strings, none of them empty")
    return stops


def _include_usage(given: object) -> bool:
    if given is None:
        return False
    options = checks.mapping("stream_options", given)
    if unknown := set(options) - {"include_usage", "include_obfuscation"}:
        raise GGUFError(f"stream_options has {sorted(map(str, unknown))}; include_usage is all there is")
    return checks.switch("stream_options.include_usage", options.get("include_usage"))
