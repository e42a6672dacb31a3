"""The fields of a body of `/completion`: which are honoured, which say nothing here, which are refused, and why.

In: a body. Out: a `Fields`, or one line about what is wrong.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from ggufpy.api.llama import numbers
from ggufpy.errors import GGUFError
from ggufpy.support import checks
from ggufpy.support.records import dataclass

ALIASES = MappingProxyType(
    {"max_completion_tokens": "n_predict", "max_tokens": "n_predict", "n": "n_cmpl", "logprobs": "n_probs"}
)
MOST_STOPS, MOST_STOP = 256, 4096  # strings, and characters of one: each is looked for with every token
SWITCHES = (
    "stream", "cache_prompt", "return_tokens", "return_progress", "timings_per_token", "post_sampling_probs",
    "ignore_eos",
)  # fmt: skip
# Taken, and without effect: why.
NO_EFFECT: Mapping[str, str] = MappingProxyType(
    {
        "n_keep": "a context that is full ends the text, as llama-server has it unless it is told to shift",
        "n_discard": "as n_keep",
        "n_cache_reuse": "what was read is found by itself, from the first token on",
        "t_max_prompt_ms": "llama-server has not made it either",
        "sse_ping_interval": "silent streams are kept open in any case",
        "verbose": "it is about answers of other routes",
        "backend_sampling": "it is about GPUs",
        "stream_options": "the last record of a stream says what it took in any case",
        "tfs_z": "llama.cpp has dropped it",
        "penalize_nl": "llama.cpp has dropped it",
        "parse_tool_calls": "nothing is parsed here",
    }
)
# What a chat client (SillyTavern's getTextGenGenerationData) sends to every server alike, with the names that others
# have for it. llama-server passes over them; the fields that count here come beside them.
OF_OTHERS = frozenset(
    {
        "max_new_tokens", "typical", "sampler_seed", "repetition_penalty", "min_tokens", "min_length", "length_penalty",
        "early_stopping", "add_bos_token", "dynamic_temperature", "dynatemp_low", "dynatemp_high", "dynatemp_min",
        "dynatemp_max", "smoothing_factor", "smoothing_curve", "stopping_strings", "truncation_length",
        "ban_eos_token", "skip_special_tokens", "include_reasoning", "top_a", "tfs", "mirostat_mode",
        "custom_token_bans", "banned_strings", "api_type", "api_server", "legacy_api", "sampler_order",
        "sampler_priority", "rep_pen", "rep_pen_range", "rep_pen_slope", "rep_pen_decay", "rep_pen_size",
        "repetition_penalty_range", "repetition_decay", "guidance_scale", "negative_prompt", "grammar_string",
        "temperature_last", "speculative_ngram", "do_sample", "num_beams", "no_repeat_ngram_size", "penalty_alpha",
        "encoder_repetition_penalty", "epsilon_cutoff", "eta_cutoff", "nsigma", "ignore_eos_token", "best_of",
        "trim_stop", "use_default_badwordsids", "num_ctx", "num_predict", "user",
    }
)  # fmt: skip
_INNER = "it is between llama-server's parts, and about chats: send POST /v1/chat/completions"
REFUSED: Mapping[str, str] = MappingProxyType(
    {
        "system_prompt": "llama-server has dropped it: put the text before the prompt",
        "image_data": "the model takes text alone",
        "multimodal_data": "the model takes text alone",
        "penalty_prompt": "llama-server has dropped it",
        "n_ctx": "the context is as the server was started with (ggufpy serve -c)",
        "echo": "a completion does not repeat its prompt; the answer has it as prompt",
        "messages": "this route takes a prompt: send POST /v1/chat/completions",
        "tools": "this route takes a prompt: send POST /v1/chat/completions",
        **dict.fromkeys(
            (
                "chat_format", "chat_parser", "reasoning_format", "generation_prompt", "continue_final_message",
                "reasoning_control", "reasoning_budget_tokens", "reasoning_budget_start_tag",
                "reasoning_budget_end_tags", "reasoning_budget_end_tag", "reasoning_budget_message",
            ),
            _INNER,
        ),
    }
)  # fmt: skip
# Refused where they are not empty.
_EMPTY = MappingProxyType(
    {
        "grammar_lazy": "a grammar holds from the first token on",
        "grammar_triggers": "a grammar holds from the first token on",
        "preserved_tokens": "they are for lazy grammars, and a grammar holds from the first token on",
        **{name: REFUSED[name] for name in ("image_data", "multimodal_data", "system_prompt", "tools")},
    }
)
_HONOURED = (
    "prompt", "model", "stop", "grammar", "json_schema", "logit_bias", "lora", "response_fields", "samplers", "seed",
    "dry_sequence_breakers", "n_cmpl",
)  # fmt: skip
KNOWN = frozenset(
    {*_HONOURED, *SWITCHES, *NO_EFFECT, *OF_OTHERS, *ALIASES, *_EMPTY, *numbers.SAMPLING, *numbers.OTHERS}
)


@dataclass(frozen=True)
class Fields:
    """A body that has been checked, but for what only the model knows. Null counts as not given."""

    given: Mapping[str, Any]
    switches: Mapping[str, bool]
    numbers: Mapping[str, int]  # of numbers.OTHERS
    n_cmpl: int
    stop: tuple[str, ...]
    response_fields: tuple[str, ...]

    @property
    def n_predict(self) -> int:
        """How many tokens may come; -1 for as many as the context holds."""
        return self.numbers.get("n_predict", -1)

    @property
    def n_probs(self) -> int:
        """How many alternatives are listed, 0 for no probabilities at all."""
        return self.numbers.get("n_probs", 0)

    @property
    def place(self) -> int | None:
        """The slot that is asked for."""
        slot = self.numbers.get("id_slot", -1)
        return None if slot < 0 else slot


def read(body: Mapping[str, Any], parallel: int) -> Fields:
    """The fields of a body, whose names have been checked. Raises GGUFError for what cannot be.

    `parallel`: how many places the model has."""
    given = {name: value for name, value in body.items() if value is not None}
    for name, why in _EMPTY.items():
        if given.get(name):
            raise GGUFError(f"{name} cannot be honoured: {why}")
    for alias, name in ALIASES.items():
        if alias in given:
            given.setdefault(name, given[alias])
    if isinstance(given.get("n_probs"), bool):  # OpenAI's chats have logprobs so
        raise GGUFError(f"logprobs is {given['n_probs']}; here it is how many alternatives to list (n_probs)")
    switches = {name: checks.flag(name, given[name]) for name in SWITCHES if name in given}
    others = numbers.checked(given, numbers.OTHERS)
    _check_silent(given)
    fields = Fields(
        given, switches, others,
        int(numbers.Number(1, parallel, hard=True, whole=True).check("n_cmpl", given.get("n_cmpl", 1))),
        _stops(given.get("stop")), _response_fields(given.get("response_fields")),
    )  # fmt: skip
    if fields.place is not None and fields.place >= parallel:
        raise GGUFError(f"id_slot is {fields.place}; the slots are 0 to {parallel - 1} (ggufpy serve --parallel)")
    if fields.switches.get("post_sampling_probs") and given.get("mirostat"):
        raise GGUFError("post_sampling_probs cannot be honoured with mirostat, which has no list of what may come")
    return fields


def _check_silent(given: Mapping[str, Any]) -> None:
    """The kinds of fields that have no effect."""
    for name in ("verbose", "backend_sampling", "parse_tool_calls", "penalize_nl"):
        if name in given:
            checks.flag(name, given[name])
    if "tfs_z" in given:
        checks.number("tfs_z", given["tfs_z"])
    if "stream_options" in given:
        checks.mapping("stream_options", given["stream_options"])


def _stops(given: object) -> tuple[str, ...]:
    """Stop strings; empty ones are passed over."""
    texts = [given] if isinstance(given, str) else checks.items("stop", given or [], "a text or a list of texts")
    if len(texts) > MOST_STOPS:
        raise GGUFError(f"stop has {len(texts):,} texts, and may have {MOST_STOPS:,}")
    for i, each in enumerate(texts):
        if isinstance(each, str) and len(each) > MOST_STOP:
            raise GGUFError(f"stop[{i}] has {len(each):,} characters, and may have {MOST_STOP:,}")
    return tuple(text for i, each in enumerate(texts) if (text := checks.text(f"stop[{i}]", each)))


def _response_fields(given: object) -> tuple[str, ...]:
    names = [] if given is None else checks.items("response_fields", given, "a list of names of fields")
    return tuple(checks.text(f"response_fields[{i}]", name) for i, name in enumerate(names))
