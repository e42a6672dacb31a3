"""The fields of OpenAI's requests, a table for each endpoint: what each may be, and what becomes of it.

In: a body of JSON. Out: its fields by name, checked; fields that are null say nothing and are left out. The names are
those of OpenAI's API (the types of its Python client 3.57) and, beside them, what clients of llama-server send
(llama.cpp: tools/server, server-schema.cpp).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, Literal

from ggufpy.api.openai.kinds import (
    Checked,
    FieldError,
    Kind,
    Number,
    Object,
    Only,
    Refused,
    Switch,
    Text,
    Whole,
    Words,
    anything,
    mapping,
    of_option,
    texts_by_name,
)
from ggufpy.errors import GGUFError
from ggufpy.generate.sampling.steps import options
from ggufpy.support import checks
from ggufpy.support.records import dataclass

_WORD = re.compile(r"[-\w]{1,20}")
Effect = Literal["honoured", "taken", "refused"]
Record = dict[str, Any]

MOST_CHOICES = 128
MOST_STOPS, MOST_STOP = 64, 4096  # strings, characters of one
MOST_TOP = 100  # alternatives that are listed for a token
MOST_BIAS = 100
MOST_SEED = (1 << 64) - 1
NO_LIMIT = -1


@dataclass(frozen=True)
class Field:
    """A field. "honoured" has the effect that its API says, "taken" is checked and has none, "refused" must be null or
    say nothing; `about` is a line of docs."""

    name: str
    kind: Kind
    about: str
    effect: Effect = "honoured"
    required: bool = False


Table = Mapping[str, Field]


def read(table: Table, body: Mapping[str, Any]) -> Record:
    """The fields of a body that have an effect. Raises FieldError and GGUFError, whose message begins with a name."""
    values: Record = {}
    for name, value in body.items():
        field = table.get(name)
        if field is None:
            raise FieldError(_unknown(name, table), name[:80], "unknown_parameter")
        if value is None:
            continue
        kept = field.kind(name, value)
        if field.effect == "honoured":
            values[name] = kept
    for field in table.values():
        if field.required and field.name not in values:
            told = f"{field.name} is missing: {field.kind.wants} is wanted"
            raise FieldError(told, field.name, "missing_required_parameter")
    return values


def _unknown(name: str, table: Table) -> str:
    return f"{name[:80]} is no field of this request{checks.meant(name, table)}"


def markdown(table: Table) -> str:
    """The table as Markdown, honoured fields first."""
    lines = ["| field | may be | |", "|---|---|---|"]
    order = ("honoured", "taken", "refused")
    for field in sorted(table.values(), key=lambda field: order.index(field.effect)):
        about = field.about if field.effect == "honoured" else f"{field.effect}: {field.about}"
        lines.append(f"| `{field.name}` | {field.kind.wants} | {about} |")
    return "\n".join(lines) + "\n"


def _table(*groups: Iterable[Field]) -> dict[str, Field]:
    """Fields by name; a later one takes the place of an earlier one."""
    return {field.name: field for group in groups for field in group}


# -- kinds --


def _stops(name: str, value: Any) -> list[str]:
    stops = [value] if isinstance(value, str) else checks.items(name, value, "a text or a list of texts")
    if len(stops) > MOST_STOPS:
        raise GGUFError(f"{name} has {len(stops)} texts, and may have {MOST_STOPS}")
    for i, text in enumerate(stops):
        if len(checks.text(f"{name}[{i}]", text)) > MOST_STOP:
            raise GGUFError(f"{name}[{i}] has {len(text):,} characters, and may have {MOST_STOP:,}")
    return [text for text in stops if text]  # an empty one ends nothing


def _seed(name: str, value: Any) -> int:
    """A seed of 64 bits; a negative one but -1 is what its bits are without a sign."""
    seed = checks.whole(name, value)
    if not -(1 << 63) <= seed <= MOST_SEED:
        raise GGUFError(f"{name} is {checks.shown(seed)}; it must be a whole number of 64 bits")
    return seed if seed >= -1 else seed & MOST_SEED


def _biases(name: str, value: Any) -> list[tuple[int | str, float]]:
    """Pairs of a token, or of a text whose tokens are meant, and a number; false is minus infinity."""
    pairs = list(value.items()) if isinstance(value, Mapping) else checks.items(name, value, "an object or pairs")
    made: list[tuple[int | str, float]] = []
    for i, pair in enumerate(pairs):
        if not isinstance(pair, list | tuple) or len(pair) != 2:
            raise GGUFError(f"{name}[{i}] is {checks.shown(pair)}; a pair of a token and a number is wanted")
        token, bias = pair
        where = f"{name}.{token}" if isinstance(token, str) and _WORD.fullmatch(token) else name
        if not isinstance(token, str):
            token = checks.whole(where, token, 0)
        elif token.removeprefix("-").isdecimal() and token.isascii():
            token = checks.whole(where, int(token[:20]), 0)
        made.append((token, float("-inf") if bias is False else Number(-MOST_BIAS, MOST_BIAS)(where, bias)))
    return made


def _modalities(name: str, value: Any) -> None:
    if checks.items(name, value, 'the list ["text"]') != ["text"]:
        raise FieldError(
            f'{name} is {checks.shown(value)}; the models write text: ["text"] is wanted', name, "invalid_value"
        )


def _prediction(name: str, value: Any) -> None:
    given = mapping(name, value)
    if given.get("type") != "content":
        raise GGUFError(f'{name}.type is {checks.shown(given.get("type"))}; it must be "content"')


def _norm(name: str, value: Any) -> int:
    if checks.whole(name, value) not in (-1, 2):
        raise FieldError(f"{name} is {value}; it must be 2 (vectors 1 long) or -1 (as they are)", name, "invalid_value")
    return int(value)


def _budget(name: str, value: Any) -> int:
    if checks.whole(name, value) not in (-1, 0):
        told = f"{name} is {value}; thoughts are not cut off: it must be -1 (no bound) or 0 (no thoughts)"
        raise FieldError(told, name, "unsupported_value")
    return int(value)


SWITCH = Switch()
STOPS = Checked("a text or a list of texts", _stops)
LIMIT = Whole(NO_LIMIT)
OBJECT = Checked("an object", mapping)
ANYTHING = Checked("see its API", anything)  # what is checked where it is used
STREAM_OPTIONS = Object({"include_usage": SWITCH, "include_obfuscation": SWITCH})
EFFORTS = Words(("none", "minimal", "low", "medium", "high", "xhigh", "max"))


def _given(name: str, wants: str, about: str) -> Field:
    """A field that is checked where it is used."""
    return Field(name, Checked(wants, anything), about)


def _refused(name: str, why: str, *harmless: Any) -> Field:
    """A field that may be null, or have a value that says nothing."""
    return Field(name, Only(harmless, why) if harmless else Refused(why), why, "refused")


# -- groups --

SAMPLING = [
    *(Field(name, of_option(option), option.help) for option in options() for name in (option.name, *option.aliases)),
    Field("temperature", Number(0, 2), "randomness; 0 takes the likeliest token"),
    Field("top_p", Number(0, 1), "tokens of this much probability together are kept"),
    Field("presence_penalty", Number(-2, 2), "taken off the logit of what has come"),
    Field("frequency_penalty", Number(-2, 2), "taken off the logit for each time that it has come"),
    Field("seed", Checked("a whole number of 64 bits", _seed), "the same text each time; -1: another one each time"),
    Field(
        "logit_bias",
        Checked("an object of token ids (or texts) and numbers from -100 to 100, or false; or pairs", _biases),
        "added to logits; false forbids a token",
    ),
    Field("ignore_eos", SWITCH, "the text goes on where the model would end it"),
]

GENERATION = [
    Field("model", Text(), "which of the served models; left out or empty, the first one"),
    Field("stream", SWITCH, "answer as server-sent events"),
    Field("stream_options", STREAM_OPTIONS, "`include_usage`: a last chunk with usage; `include_obfuscation` is taken"),
    Field("max_tokens", LIMIT, "-1: no limit but the context; 0: the prompt is read, and nothing is said"),
    Field("n_predict", LIMIT, "the same under llama-server's name"),
    Field("n", Whole(1, MOST_CHOICES), "choices; a seed goes up by one from each to the next"),
    Field("n_cmpl", Whole(1, MOST_CHOICES), "the same under llama-server's name"),
    Field("stop", STOPS, f"up to {MOST_STOPS} texts that end an answer and are not part of it"),
    Field("user", Text(4096), "nothing is kept by user", "taken"),
    # llama-server's
    Field("grammar", Text(), "GBNF that the answer follows"),
    _given("json_schema", "a schema", "a JSON schema that the answer follows"),
    _given("lora", "a list of {id, scale}", "how much each adapter counts"),
    Field("cache_prompt", SWITCH, "false: what was read before is not used"),
    Field("timings_per_token", SWITCH, "`timings` on every chunk, not on the last only"),
    Field("return_progress", SWITCH, "a prompt's progress is not told", "taken"),
    Field("id_slot", Whole(-1), "what was read is shared by all places", "taken"),
    Field("n_keep", Whole(-1), "contexts are not shifted: a full one ends the text", "taken"),
    Field("n_discard", Whole(0), "contexts are not shifted", "taken"),
    Field("n_cache_reuse", Whole(0), "what was read counts from the first token on", "taken"),
    Field("sse_ping_interval", Whole(-1), "silent streams are kept open every 10 s", "taken"),
    Field("backend_sampling", SWITCH, "how it is computed changes no text", "taken"),
    _refused("verbose", "`__verbose` is llama-server's own", False),
    Field("n_indent", Whole(0), "the text ends at a line that begins with fewer blanks"),
    Field("t_max_predict_ms", Whole(-1), "the text ends at a line end behind this time, from its first token on"),
    _refused("return_tokens", "POST /completion returns them", False),
    _refused("post_sampling_probs", "logprobs are the model's own", False),
    _refused("response_fields", "POST /completion has it"),
    _refused("grammar_lazy", "it goes with grammar_triggers", False),
    *(
        _refused(name, "answers are read as the model's template writes them")
        for name in (
            "grammar_triggers", "grammar_type", "preserved_tokens", "chat_format", "chat_parser", "generation_prompt",
            "reasoning_budget_start_tag", "reasoning_budget_end_tag", "reasoning_budget_end_tags",
        )
    ),
]  # fmt: skip

TOOLS = [
    _given("tools", "a list of {type, function}", "functions to call; parameters are enforced, `strict` or not"),
    _given("tool_choice", "a word or an object", '"none", "auto", "required", a function, or allowed_tools'),
    Field("parallel_tool_calls", SWITCH, "false: one call at most"),
    _given("functions", "a list of functions", "the older form of tools"),
    _given("function_call", "a word or {name}", "the older form of tool_choice"),
    _refused("parse_tool_calls", "calls are always told as tool_calls", True),
]

THINKING = [
    Field("reasoning_effort", EFFORTS, 'to the template; "none" and "minimal" switch thoughts off where it can'),
    Field(
        "reasoning_format",
        Words(("auto", "deepseek", "none")),
        'thoughts are told as reasoning_content; "none": as they come, within the content (without tools)',
    ),
    *(
        Field(name, Checked("-1 or 0", _budget), 'no bound, or no thoughts, as reasoning_effort "none" has it')
        for name in ("reasoning_budget_tokens", "thinking_budget_tokens")
    ),
    _refused("reasoning_budget_message", "thoughts are not cut off", ""),
    _refused("reasoning_control", "thoughts are not cut off", False),
    _refused("thinking_forced_open", "the template says so", False),
]

# -- endpoints --

CHAT = _table(
    [Field("messages", Checked("a list of messages", anything), "texts, calls and their answers", required=True)],
    SAMPLING,
    GENERATION,
    TOOLS,
    THINKING,
    [
        Field("max_completion_tokens", LIMIT, "the same as max_tokens"),
        _given("response_format", "an object with a type", "text, json_object or json_schema, which is enforced"),
        Field("logprobs", SWITCH, "log probabilities of the tokens"),
        Field("top_logprobs", Whole(0, MOST_TOP), "how many alternatives"),
        Field("n_probs", Whole(0, MOST_TOP), "logprobs and top_logprobs under llama-server's name"),
        Field("chat_template_kwargs", OBJECT, "further variables of the template, as enable_thinking"),
        _given("documents", "anything", "a variable of the template"),
        Field("add_generation_prompt", SWITCH, "false: the prompt ends behind the last message"),
        Field("continue_final_message", SWITCH, "the answer goes on with the last message"),
        Field("metadata", Checked("an object of texts", texts_by_name), "nothing is kept", "taken"),
        Field("store", SWITCH, "nothing is kept", "taken"),
        Field("service_tier", Text(64), "all requests wait in one queue", "taken"),
        Field("prompt_cache_key", Text(4096), "prompts share what they begin with by themselves", "taken"),
        Field("prompt_cache_retention", Text(64), "what was read is kept as long as there is room", "taken"),
        Field("prompt_cache_options", OBJECT, "what was read is kept as long as there is room", "taken"),
        Field("safety_identifier", Text(4096), "nothing is kept by user", "taken"),
        Field("verbosity", Words(("low", "medium", "high")), "open models have no such setting", "taken"),
        Field("prediction", Checked('{"type": "content", ...}', _prediction), "the text is the same", "taken"),
        Field("modalities", Checked('["text"]', _modalities), "text is all there is", "taken"),
        _refused("audio", "the models write text only"),
        _refused("moderation", "there is nothing here that moderates"),
        _refused("web_search_options", "nothing is searched"),
    ],
)  # fmt: skip

COMPLETION = _table(
    [Field("prompt", Checked("a text, a list of texts, token ids or a list of those", anything),
           "each has its own choices: prompt times n, plus the choice", required=True)],
    SAMPLING,
    GENERATION,
    [
        Field("max_tokens", LIMIT, "16 where it is left out; -1: no limit but the context; 0: nothing is said"),
        Field("suffix", Text(), "the model fills in between, where it can"),
        Field("echo", SWITCH, "the prompt comes first, with logprobs its own too"),
        Field("logprobs", Whole(0, MOST_TOP), "how many alternatives are listed"),
        Field("n_probs", Whole(0, MOST_TOP), "the same under llama-server's name"),
        _given("response_format", "an object with a type", "as in chats"),
        Field("best_of", Whole(1), "refused unless it is n: all choices are returned"),
    ],
)  # fmt: skip

EMBEDDING = _table(
    [
        Field("input", Checked("a text, a list of texts, token ids or a list of those", anything),
              "each has a vector", required=True),
        Field("model", Text(), "which of the served models; left out or empty, the first one"),
        Field("encoding_format", Words(("float", "base64")), "base64 is of float32, little-endian"),
        Field("dimensions", Whole(1), "vectors are cut to this length and made 1 long again: for models made for it"),
        Field("embd_normalize", Checked("-1 or 2", _norm), "llama-server's: 2 or -1"),
        Field("user", Text(4096), "nothing is kept by user", "taken"),
    ]
)  # fmt: skip

RERANK = _table(
    [
        Field("query", Text(), "what is asked", required=True),
        _given("documents", "a list", "texts or objects with `text`"),
        _given("texts", "a list", "documents under TEI's name: the answer has its shape, too"),
        Field("model", Text(), "which of the served models; left out or empty, the first one"),
        Field("top_n", Whole(1), "how many of the best are told"),
        Field("return_documents", SWITCH, "each with its document"),
        Field("return_text", SWITCH, "each with its text, in TEI's shape"),
        _refused("raw_scores", "scores are the model's own", True),
        Field("user", Text(4096), "nothing is kept by user", "taken"),
    ]
)
