"""What a body of `/completion` asks for, of one prompt or of several.

In: a model and a body. Out: an `Asked` for each prompt, and the shape that tells the answer.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ggufpy.api.llama import biases, fields, numbers, prompts
from ggufpy.api.llama.answer import CompletionShape, Watched
from ggufpy.api.llama.fields import Fields
from ggufpy.api.llama.limits import Limits
from ggufpy.api.openai import asked as openai
from ggufpy.api.openai.asked import Asked
from ggufpy.errors import GGUFError
from ggufpy.support import checks
from ggufpy.support.records import dataclass

if TYPE_CHECKING:
    from ggufpy.api.asynchronous import AsyncCompletions
    from ggufpy.generate.sampling import Guides
    from ggufpy.grammar import Grammar

Record = dict[str, Any]

FREE_PROBS = 100  # alternatives a token, as many as a text may have tokens
MOST_PROBS = 1 << 18  # of one answer otherwise: a large vocabulary for one token


class LongPrompt(GGUFError):
    """A prompt of more tokens than the context holds."""

    def __init__(self, tokens: int, holds: int) -> None:
        super().__init__(
            f"the prompt is {tokens} tokens and the context holds {holds}: shorten it, or start the server with a "
            "larger one (ggufpy serve -c)"
        )
        self.tokens, self.holds = tokens, holds


@dataclass(frozen=True)
class Call:
    """A completion that has been checked."""

    asked: Asked
    shape: CompletionShape
    fields: Fields

    @property
    def stream(self) -> bool:
        """Whether it is told as it comes."""
        return self.fields.switches.get("stream", False)


def call(llm: AsyncCompletions, body: Mapping[str, Any], given: Sequence[Sequence[int]] | None = None) -> Call:
    """What a body asks for, whose names have been checked; `given` are the tokens of its prompts where they are no
    field of it. Raises GGUFError for what cannot be."""
    read = fields.read(body, llm.n_parallel())
    if given is None and "prompt" not in read.given:
        raise GGUFError(f"prompt is missing; {prompts.WANTED}, or some of them, are wanted")
    tokens = prompts.several(llm, "prompt", read.given["prompt"]) if given is None else given
    for each in tokens:
        if len(each) > llm.n_ctx():
            raise LongPrompt(len(each), llm.n_ctx())
    options = _options(llm, read)
    watched = Watched()
    asked = _asked(llm, [list(each) for each in tokens], read, options, watched)
    many = given is None and prompts.is_several(read.given["prompt"])
    return Call(asked, CompletionShape(llm, asked, read, watched, many or read.n_cmpl > 1), read)


def _options(llm: AsyncCompletions, read: Fields) -> Record:
    """The options of `create_completion` that all prompts have."""
    given = read.given
    options: Record = {**numbers.sampling_options(given), "stop": list(read.stop), "n": read.n_cmpl}
    if given.get("model") is not None:
        options["model"] = given["model"]
    pairs = biases.biases(llm, given["logit_bias"]) if "logit_bias" in given else []
    if read.switches.get("ignore_eos"):
        pairs += biases.never_ending(llm)
    if pairs:
        options["logit_bias"] = pairs
    if "cache_prompt" in read.switches:
        options["cache_prompt"] = read.switches["cache_prompt"]
    if read.n_probs:
        options["logprobs"] = _n_probs(llm, read)
    if "lora" in given:
        options["lora"] = adapters(given["lora"])
    grammar = _grammar(given)
    if grammar is not None:
        options["grammar"] = grammar
    return options


def _n_probs(llm: AsyncCompletions, read: Fields) -> int:
    """How many alternatives are listed. Raises GGUFError where an answer could come to more than MOST_PROBS."""
    count = min(read.n_probs, llm.n_vocab())
    tokens = read.n_cmpl * min(llm.n_ctx() if read.n_predict < 0 else read.n_predict, llm.n_ctx())
    if count > FREE_PROBS and count * tokens > MOST_PROBS:
        raise GGUFError(
            f"n_probs is {count:,} for up to {tokens:,} tokens, and may be {FREE_PROBS}, or come to {MOST_PROBS:,} "
            "with all tokens: set n_predict, or ask for fewer"
        )
    return count


def adapters(given: object) -> list[Record]:
    """How much adapters count: [{id, scale}, ...]."""
    made = checks.items("lora", given, "a list of {id, scale}")
    for i, each in enumerate(made):
        if not isinstance(each, Mapping) or set(each) != {"id", "scale"}:
            raise GGUFError(f"lora[{i}] is {checks.shown(each)}; {{id, scale}} is wanted")
        numbers.whole(f"lora[{i}].id", each["id"])
        checks.number(f"lora[{i}].scale", each["scale"])
    return made


def _grammar(given: Mapping[str, Any]) -> Grammar | str | None:
    """What the text must look like. An empty grammar is none, an empty schema any object."""
    gbnf = checks.text("grammar", given["grammar"]) if "grammar" in given else ""
    if "json_schema" not in given:
        return gbnf or None
    if gbnf:
        raise GGUFError("grammar and json_schema both say what the text looks like: give one of them")
    from ggufpy.grammar import Grammar

    schema = checks.mapping("json_schema", given["json_schema"])
    return Grammar.from_json_schema(schema or {"type": "object"}, "json_schema")


def _asked(llm: AsyncCompletions, tokens: list[list[int]], read: Fields, options: Record, watched: Watched) -> Asked:
    """The call: its prompts and its texts."""
    limit = None if read.n_predict < 0 else read.n_predict
    made = openai.text_request(llm, tokens, limit, options)
    milliseconds = read.numbers.get("t_max_predict_ms", 0)
    seconds = milliseconds / 1000 if milliseconds > 0 else None

    def stopper() -> Limits:
        limits = Limits(read.stop, read.numbers.get("n_indent", 0), seconds)
        watched.limits.append(limits)
        return limits

    guides = made.guides
    if read.n_probs and read.switches.get("post_sampling_probs"):
        guides = _watching(made.guides, watched)
    made = replace(made, stopper=stopper, guides=guides)
    if read.n_predict == 0:
        made = replace(made, max_tokens=0)
    return replace(made, reuse="any") if read.switches.get("cache_prompt") else made


def _watching(guides: Callable[[], Guides], watched: Watched) -> Callable[[], Guides]:
    """Guides that keep what each token was drawn from."""

    def make() -> Guides:
        return replace(guides(), watch=watched.another())

    return make
