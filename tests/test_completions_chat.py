"""Chat completions: calls of tools and thoughts in OpenAI's shapes, whole and streamed, by a model that says what it is
told to."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from llm_fakes import EOS, VOCAB, parts

import ggufpy
from ggufpy.chat import ChatTemplate
from ggufpy.generate.loading import Later
from ggufpy.llm import Llama

TEMPLATE = (
    "{%- if tools %}<tools>{% for tool in tools %}{{ tool | tojson }}{% endfor %}</tools>\n{% endif %}"
    "{%- for m in messages %}<|im_start|>{{ m.role + '\n' }}"
    "{%- if m.reasoning_content %}<think>\n{{ m.reasoning_content }}\n</think>\n\n{% endif %}{{ m.content or '' }}"
    "{%- for call in m.tool_calls or [] %}\n<tool_call>\n"
    '{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}\n</tool_call>'
    "{%- endfor %}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
ASK = [{"role": "user", "content": "Weather?"}]
TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "of a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
CALL = '<tool_call>\n{"name": "weather", "arguments": {"city": "Oslo"}}\n</tool_call>'
THOUGHT = "<think>\nOslo, I guess.\n</think>\n\n"


def saying(text: str) -> Llama:
    """A model whose answer to every chat is `text`."""
    script = [*text.encode(), EOS]

    def rows(held: Any) -> np.ndarray[Any, Any]:
        said = bytes(token for token in held if token < 256).rpartition(b"<|im_start|>assistant\n")[2]
        row = np.zeros(VOCAB, np.float32)
        row[script[min(len(said), len(script) - 1)]] = 10.0
        return row

    made = parts(n_ctx=4096, rows=rows)
    template: Any = Later(lambda: ChatTemplate(TEMPLATE))
    from dataclasses import replace

    return Llama.from_parts(replace(made, template=template))


def joined(chunks: Iterator[Any], legacy: bool = False) -> tuple[dict[str, Any], str]:
    """The message that a client makes of a stream, and why it ended."""
    message: dict[str, Any] = {"role": "", "content": None}
    finish = ""
    for chunk in chunks:
        choice = chunk["choices"][0]
        finish = choice["finish_reason"] or finish
        delta = choice["delta"]
        message["role"] = delta.get("role") or message["role"]
        for name in ("content", "reasoning_content"):
            if name in delta:
                message[name] = (message.get(name) or "") + delta[name]
        for part in delta.get("tool_calls", ()):
            calls = message.setdefault("tool_calls", [])
            if part["index"] == len(calls):
                calls.append({"id": part["id"], "type": part["type"], "function": {**part["function"]}})
            else:
                calls[part["index"]]["function"]["arguments"] += part["function"]["arguments"]
        if "function_call" in delta:
            call = message.setdefault("function_call", {"name": "", "arguments": ""})
            call["name"] += delta["function_call"].get("name", "")
            call["arguments"] += delta["function_call"]["arguments"]
    return message, finish


def without_ids(message: Any) -> Any:
    return {
        **message,
        "content": message["content"] or None,
        "tool_calls": [{**call, "id": ""} for call in message.get("tool_calls", [])],
    }


ANSWERS = ["plain", THOUGHT + "Rain.", CALL, f"{THOUGHT}Let me see.\n{CALL}\n{CALL}", "<tool_call>\n{oops"]


@pytest.mark.parametrize("text", ANSWERS)
def test_a_stream_says_what_the_whole_answer_says(text: str) -> None:
    options: dict[str, Any] = {"tools": [TOOL], "temperature": 0.0}
    with saying(text) as llm:
        out: Any = llm.create_chat_completion(ASK, **options)
        streamed, finish = joined(llm.create_chat_completion(ASK, stream=True, **options))  # type: ignore[arg-type]
    (choice,) = out["choices"]
    assert without_ids(streamed) == without_ids(choice["message"])
    assert finish == choice["finish_reason"]


def test_calls_of_tools() -> None:
    with saying(f"{THOUGHT}Let me see.\n{CALL}") as llm:
        out: Any = llm.create_chat_completion(ASK, tools=[TOOL], tool_choice="auto", temperature=0.0)
    (choice,) = out["choices"]
    message = choice["message"]
    assert choice["finish_reason"] == "tool_calls"
    assert message["content"] == "Let me see."
    assert message["reasoning_content"] == "Oslo, I guess."
    (call,) = message["tool_calls"]
    assert call["type"] == "function"
    assert call["id"]
    assert call["function"]["name"] == "weather"
    assert json.loads(call["function"]["arguments"]) == {"city": "Oslo"}


def test_functions_of_the_older_kind() -> None:
    with saying(CALL + "\n" + CALL) as llm:
        options: dict[str, Any] = {"functions": [TOOL["function"]], "temperature": 0.0}
        out: Any = llm.create_chat_completion(ASK, **options)
        streamed, finish = joined(llm.create_chat_completion(ASK, stream=True, **options))  # type: ignore[arg-type]
    message = out["choices"][0]["message"]
    assert message["function_call"]["name"] == "weather"
    assert json.loads(message["function_call"]["arguments"]) == {"city": "Oslo"}
    assert streamed["function_call"] == message["function_call"]
    assert finish == out["choices"][0]["finish_reason"] == "function_call"


def test_a_call_of_what_is_not_offered_is_content() -> None:
    with saying(CALL) as llm:
        for options in ({}, {"tools": [TOOL], "tool_choice": "none"}):
            out: Any = llm.create_chat_completion(ASK, temperature=0.0, **options)  # type: ignore[arg-type]
            (choice,) = out["choices"]
            assert choice["message"]["content"] == CALL
            assert "tool_calls" not in choice["message"]
            assert choice["finish_reason"] == "stop"


def test_a_call_that_is_cut_short_ended_by_length() -> None:
    with saying(CALL) as llm:
        out: Any = llm.create_chat_completion(ASK, max_tokens=60, tools=[TOOL], temperature=0.0)
    assert out["choices"][0]["finish_reason"] == "length"


@pytest.mark.parametrize(
    ("stop", "reason"), [("Oslo", "stop"), ("}}", "stop"), ("}\n", "tool_calls"), ("z", "tool_calls")]
)
def test_a_call_that_a_stop_string_cuts_is_no_reason_to_call(stop: str, reason: str) -> None:
    with saying(CALL) as llm:
        out: Any = llm.create_chat_completion(ASK, tools=[TOOL], stop=stop, temperature=0.0)
        chunks: Any = llm.create_chat_completion(ASK, tools=[TOOL], stop=stop, temperature=0.0, stream=True)
        message, finish = joined(chunks)
    (choice,) = out["choices"]
    assert (choice["finish_reason"], finish) == (reason, reason)
    assert choice["message"]["tool_calls"][0]["function"] == message["tool_calls"][0]["function"]


def test_tools_are_rendered_and_answers_of_tools_too() -> None:
    with saying("Rain.") as llm:
        assert '"name": "weather"' in llm.chat_prompt(ASK, ggufpy_offer(TOOL)).text
        history = [
            *ASK,
            {"role": "assistant", "content": None, "tool_calls": [
                {"id": "a", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Oslo"}'}}]},
            {"role": "tool", "tool_call_id": "a", "content": "rain"},
        ]  # fmt: skip
        out: Any = llm.create_chat_completion(history, tools=[TOOL], temperature=0.0)
    assert out["choices"][0]["message"] == {"role": "assistant", "content": "Rain."}


def ggufpy_offer(tool: Any) -> Any:
    from ggufpy.chat.tools import offered

    return offered([tool])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tools": "x"}, "tools must be a list"),
        ({"tools": [TOOL], "tool_choice": {"function": {"name": "other"}}}, "'other', which is not"),
        ({"tools": [TOOL], "functions": [TOOL["function"]]}, "not both"),
        ({"tool_choice": "required"}, "nothing to call"),
        ({"top_logprobs": 2}, "logprobs=True"),
        ({"chat_template_kwargs": 3}, "chat_template_kwargs is 3"),
        ({"chat_template_kwargs": {"messages": []}}, "chat_template_kwargs has 'messages'"),
        ({"chat_template_kwargs": {"offer": 1}}, "chat_template_kwargs has 'offer'"),
        ({"chat_template_kwargs": {1: 2}}, "a name in chat_template_kwargs is 1"),
        ({"max_completion_tokens": "x"}, "max_completion_tokens is 'x'"),
        ({"max_tokens": 2, "max_completion_tokens": 3}, "max_tokens and max_completion_tokens"),
        ({"tools": [TOOL], "tool_choice": "required", "response_format": {"type": "json_object"}}, "leave out one"),
        ({"tools": [TOOL], "tool_choice": {"function": {"name": "weather"}}, "grammar": 'root ::= "a"'}, "leave out"),
        ({"response_format": {"type": "x"}}, "response_format.type"),
    ],
)
def test_what_cannot_be_asked(options: dict[str, Any], message: str) -> None:
    with saying("") as llm, pytest.raises(ggufpy.GGUFError, match=message):
        llm.create_chat_completion(ASK, **options)


class Dumped:
    """An object as the openai package has it."""

    def __init__(self, **fields: Any) -> None:
        self._fields = fields

    def model_dump(self, *, exclude_none: bool) -> dict[str, Any]:
        plain = dict(self._fields)
        if "tool_calls" in plain:
            plain["tool_calls"] = [call.model_dump(exclude_none=exclude_none) for call in plain["tool_calls"]]
        return {key: value for key, value in plain.items() if value is not None or not exclude_none}


def test_messages_that_are_objects() -> None:
    call = {"id": "a", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Oslo"}'}}
    history = [*ASK, {"role": "assistant", "content": None, "tool_calls": [call]}]
    answer = {"role": "tool", "tool_call_id": "a", "content": "rain"}
    with saying("Rain.") as llm:
        plain: Any = llm.create_chat_completion([*history, answer], tools=[TOOL], temperature=0.0)
        message = Dumped(role="assistant", content=None, refusal=None, tool_calls=[Dumped(**call)])
        half = {"role": "assistant", "content": None, "tool_calls": [Dumped(**call)]}
        for said in (message, half):
            out: Any = llm.create_chat_completion([*ASK, said, answer], tools=[TOOL], temperature=0.0)  # type: ignore[list-item]
            assert out["usage"]["prompt_tokens"] == plain["usage"]["prompt_tokens"]
            assert out["choices"] == plain["choices"]


def test_the_newer_name_of_max_tokens() -> None:
    with saying("abcdef") as llm:
        for options in ({"max_completion_tokens": 2}, {"max_completion_tokens": 2, "max_tokens": 2}):
            out: Any = llm.create_chat_completion(ASK, **options)  # type: ignore[arg-type]
            assert out["choices"][0]["message"]["content"] == "ab"


def test_variables_go_to_the_template() -> None:
    with saying("") as llm:
        llm._parts.template.get().source  # type: ignore[union-attr]  # noqa: B018
    source = "{{ messages[0].content }} {{ enable_thinking }} {{ reasoning_effort }}"
    template: Any = Later(lambda: ChatTemplate(source))
    from dataclasses import replace

    with Llama.from_parts(replace(parts(n_ctx=4096), template=template)) as llm:
        prompt = llm.chat_prompt(ASK, None, enable_thinking=False, reasoning_effort="low")
    assert prompt.text == "Weather? False low"


def test_a_handler_answers_in_the_models_place() -> None:
    seen: dict[str, Any] = {}

    def handler(**given: Any) -> dict[str, Any]:
        seen.update(given)
        return {"choices": [{"message": {"role": "assistant", "content": "mine"}}]}

    with saying("x") as llm:
        llm.chat_handler = handler
        out: Any = llm.create_chat_completion(ASK, 5, temperature=0.5, tools=[TOOL])
    assert out["choices"][0]["message"]["content"] == "mine"
    assert seen["llama"] is llm
    assert seen["messages"] == ASK
    assert (seen["max_tokens"], seen["temperature"], seen["tools"], seen["stream"]) == (5, 0.5, [TOOL], False)


def test_the_next_turn_costs_its_new_tokens_only() -> None:
    with saying(f"{THOUGHT}Rain.") as llm:
        messages: list[dict[str, Any]] = [*ASK]
        read = 0
        for _ in range(5):
            out: Any = llm.create_chat_completion(messages, temperature=0.0)
            usage = out["usage"]
            assert usage["prompt_tokens_details"]["cached_tokens"] >= read
            # the newest token was drawn and never read
            read = usage["prompt_tokens"] + usage["completion_tokens"] - 1
            messages += [out["choices"][0]["message"], {"role": "user", "content": "And then?"}]
