"""The fields of a request for a response: what each may be, and what becomes of it.

Names and bounds are OpenAI's (openai/types/responses/response_create_params.py of its Python client 3.57);
`client_metadata` is Codex's. Of samplers' options some are taken beside them, as in chat completions.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ggufpy.api.openai.fields import ANYTHING, OBJECT, SAMPLING, STOPS, SWITCH, Field, Table, read
from ggufpy.api.openai.kinds import Checked, FieldError, Object, Only, Refused, Text, Whole, Words
from ggufpy.errors import GGUFError
from ggufpy.support import checks

Record = dict[str, Any]

LOGPROBS, SEALED = "message.output_text.logprobs", "reasoning.encrypted_content"
INCLUDED = (
    LOGPROBS, SEALED, "file_search_call.results", "web_search_call.results", "web_search_call.action.sources",
    "message.input_image.image_url", "computer_call_output.output.image_url", "code_interpreter_call.outputs",
)  # fmt: skip
MOST_METADATA, MOST_KEY, MOST_VALUE = 16, 64, 512
SAMPLERS = ("temperature", "top_p", "presence_penalty", "frequency_penalty", "seed", "top_k", "min_p", "repeat_penalty")
SUMMARY = Words(("auto", "concise", "detailed"))


def _metadata(name: str, value: Any) -> None:
    given = checks.mapping(name, value)
    if len(given) > MOST_METADATA:
        raise GGUFError(f"{name} has {len(given)} keys, and may have {MOST_METADATA}")
    for key, text in given.items():
        if len(key) > MOST_KEY or len(checks.text(f"{name}.{key[:MOST_KEY]}", text)) > MOST_VALUE:
            raise GGUFError(f"{name} may have keys of {MOST_KEY} characters and texts of {MOST_VALUE}")


def _included(name: str, value: Any) -> list[str]:
    wanted: list[str] = checks.items(name, value, "a list of texts")
    return [Words(INCLUDED)(f"{name}[{i}]", each) for i, each in enumerate(wanted)]


def _format(name: str, value: Any) -> Record:
    """text.format, whose schema stands beside its type."""
    given = dict(checks.mapping(name, value))
    kind = Words(("text", "json_object", "json_schema"))(f"{name}.type", given.get("type"))
    if kind == "json_schema":
        checks.text(f"{name}.name", given.get("name"))
        if "schema" not in given:
            raise FieldError(f"{name}.schema is missing: a JSON schema is wanted", name, "missing_required_parameter")
        if given.get("strict") is not None:
            checks.flag(f"{name}.strict", given["strict"])
    return given


TEXT = Object({"format": Checked("text, json_object or json_schema", _format),
               "verbosity": Words(("low", "medium", "high"))})  # fmt: skip
REASONING = Object(
    {
        "effort": Words(("none", "minimal", "low", "medium", "high", "xhigh", "max")),
        "summary": SUMMARY,
        "generate_summary": SUMMARY,
        "context": Words(("auto", "current_turn", "all_turns")),
        "mode": Only(("standard",), "a model has one mode here"),
    }
)
_ALL = [
    Field("input", Checked("a text or a list of items", lambda name, value: value),
          "messages, calls and their outputs, thoughts, references to items; images and files are refused; searches "
          "and the like are left out", required=True),
    Field("model", Text(), "which of the served models; left out or empty, the first one"),
    Field("instructions", Text(), "a system message ahead of the input; those of an earlier response do not count"),
    Field("previous_response_id", Text(), "goes on from a response that is kept"),
    Field("stream", SWITCH, "answer as named server-sent events"),
    Field("stream_options", Object({"include_obfuscation": SWITCH}), "nothing is obfuscated", "taken"),
    Field("store", SWITCH, "false: it is not kept; else it is kept in memory, as long as there is room"),
    Field("tools", ANYTHING, "function, custom (a function with the text argument `input`; a regex is enforced, a "
          "grammar in Lark told to the model) and namespace; other kinds are left out"),
    Field("tool_choice", ANYTHING, '"none", "auto", "required", a function, a custom tool, or allowed_tools'),
    Field("parallel_tool_calls", SWITCH, "false: one call at most"),
    Field("max_tool_calls", Whole(1), "it is about tools that OpenAI runs", "taken"),
    Field("max_output_tokens", Whole(1), "no limit but the context where it is left out"),
    Field("top_logprobs", Whole(0, 20), f"how many alternatives, where `include` has {LOGPROBS}"),
    Field("include", Checked(", ".join(INCLUDED), _included), f"{LOGPROBS} and {SEALED} have an effect"),
    Field("text", TEXT, "format is enforced; verbosity has no effect"),
    Field("reasoning", REASONING, "effort to the template; with summary thoughts are told as a summary, too"),
    Field("truncation", Words(("auto", "disabled")), "auto: the oldest turns are left out where the input does not "
          "fit, and `left_out_items` says how many items; else that is refused"),
    *(field for field in SAMPLING if field.name in SAMPLERS),
    Field("stop", STOPS, "texts that end an answer and are not part of it"),
    Field("chat_template_kwargs", OBJECT, "further variables of the template, as enable_thinking"),
    Field("metadata", Checked("an object of texts", _metadata), "told again", "taken"),
    Field("background", Only((False,), "responses are made while their client waits"), "not done", "refused"),
    Field("user", Text(4096), "nothing is kept by user", "taken"),
    Field("safety_identifier", Text(4096), "nothing is kept by user", "taken"),
    Field("prompt_cache_key", Text(4096), "prompts share what they begin with by themselves", "taken"),
    Field("prompt_cache_retention", Text(64), "what was read is kept as long as there is room", "taken"),
    Field("prompt_cache_options", OBJECT, "what was read is kept as long as there is room", "taken"),
    Field("service_tier", Text(64), "all requests wait in one queue", "taken"),
    Field("client_metadata", OBJECT, "Codex sends it", "taken"),
    *(
        Field(name, Refused(why), why, "refused")
        for name, why in (
            ("conversation", "no conversations are kept; previous_response_id goes on from a response"),
            ("prompt", "there are no stored prompts: give instructions and input"),
            ("context_management", "nothing is compacted: give the items that are to be read"),
            ("moderation", "nothing is moderated"),
            ("background_options", "responses are made while their client waits"),
            ("access_programs", "there are none"),
            ("image", "models are given text only"),
        )
    ),
]  # fmt: skip
RESPONSE: Table = {field.name: field for field in _ALL}
ECHOED = ("metadata", "user", "safety_identifier", "prompt_cache_key", "max_tool_calls")


def checked(body: Mapping[str, Any]) -> Record:
    """The fields of a body that have an effect, and those that a response tells again. Raises GGUFError for one that is
    unknown, refused or wrong."""
    return {**read(RESPONSE, body), **{name: body[name] for name in ECHOED if body.get(name) is not None}}
