"""OpenAI's chat and text completions over HTTP: what is answered, and in whose shape what cannot be is refused."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from llm_fakes import fake_llama, vague
from serving import Running, serving

from ggufpy.api.openai.fields import CHAT, COMPLETION, EMBEDDING, RERANK, markdown

PATH, TEXT = "/v1/chat/completions", "/v1/completions"
USER = {"role": "user", "content": "hello"}
HELLO: dict[str, Any] = {"messages": [USER], "max_tokens": 4, "temperature": 0}
IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA"}}
ALLOWED = {"type": "allowed_tools"}
OLD_CALL = {"role": "assistant", "function_call": {"name": "f", "arguments": "{}"}}
REFUSAL = {"role": "assistant", "content": None, "refusal": "no", "annotations": [], "audio": None, "tool_calls": None}
FUNCTION = {"type": "function", "function": {"name": "f"}}


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    models = {
        "fake": lambda: fake_llama(n_ctx=512, n_parallel=2),
        "vague": lambda: fake_llama(rows=vague, n_ctx=512, n_parallel=2),
        "plain": lambda: fake_llama(template=False),
    }
    with serving(models) as running:
        yield running


def called(name: str = "f", arguments: str = "{}", id: str | None = "call_1") -> dict[str, Any]:
    call: dict[str, Any] = {"type": "function", "function": {"name": name, "arguments": arguments}}
    return {"role": "assistant", "content": None, "tool_calls": [{**call, "id": id} if id else call]}


def answered(id: str | None = "call_1") -> dict[str, Any]:
    return {"role": "tool", "content": "1", **({"tool_call_id": id} if id else {})}


# -- what is answered --


def test_a_whole_answer(server: Running) -> None:
    made = server.ask(PATH, HELLO).json
    assert made["object"] == "chat.completion"
    assert made["system_fingerprint"].startswith("ggufpy-")
    assert made["choices"][0]["message"] == {"role": "assistant", "content": "bcde"}
    assert made["choices"][0]["finish_reason"] == "length"
    assert made["usage"]["completion_tokens"] == 4
    times = made["timings"]
    assert times["prompt_n"] + times["cache_n"] == made["usage"]["prompt_tokens"]
    assert times["predicted_n"] == 4
    assert times["predicted_per_second"] == pytest.approx(1e3 / times["predicted_per_token_ms"])
    assert server.ask("/chat/completions", HELLO).json["choices"] == made["choices"]


def test_a_prompt_is_counted(server: Running) -> None:
    usage = server.ask(PATH, HELLO).json["usage"]
    for path in (PATH, "/chat/completions"):
        assert server.ask(path + "/input_tokens", HELLO).json["input_tokens"] == usage["prompt_tokens"]
    refused = server.ask(PATH + "/input_tokens", {**HELLO, "top_p": 7})
    assert (refused.status, refused.json["error"]["param"]) == (400, "top_p")


@pytest.mark.parametrize("usage", [False, True])
@pytest.mark.parametrize("path", [PATH, TEXT])
def test_the_last_chunk_of_a_stream_has_the_times(server: Running, path: str, usage: bool) -> None:
    body = {**HELLO, "prompt": "a", "n": 3, "stream": True, "stream_options": {"include_usage": usage}}
    body.pop("prompt" if path == PATH else "messages")
    events = server.ask(path, body).events
    assert [event for event in events if "timings" in event] == [events[-1]]
    assert events[-1]["timings"]["predicted_n"] == 12
    finished = [
        event["choices"][0]["index"] for event in events if event["choices"] and event["choices"][0]["finish_reason"]
    ]
    assert sorted(finished) == [0, 1, 2]
    if usage:
        assert events[-1]["choices"] == []
        assert events[-1]["usage"]["completion_tokens"] == 12
        assert all(event["usage"] is None for event in events[:-1])
    else:
        assert events[-1]["choices"][0]["finish_reason"] == "length"
        assert all("usage" not in event for event in events)


@pytest.mark.parametrize("path", [PATH, TEXT])
def test_every_chunk_has_the_times_where_they_are_wanted(server: Running, path: str) -> None:
    body = {**HELLO, "prompt": "a", "stream": True, "timings_per_token": True}
    body.pop("prompt" if path == PATH else "messages")
    counts = [event["timings"]["predicted_n"] for event in server.ask(path, body).events if "timings" in event]
    assert len(counts) == 5
    assert counts == sorted(counts)
    assert (counts[0] >= 1, counts[-1]) == (True, 4)  # several tokens may have come at once


@pytest.mark.parametrize("stream", [False, True])
def test_more_choices_than_places(server: Running, stream: bool) -> None:
    body = {"model": "vague", "messages": [USER], "max_tokens": 12, "n": 7, "seed": 5}
    alone = [
        server.ask(PATH, {**body, "n": 1, "seed": 5 + i}).json["choices"][0]["message"]["content"] for i in range(7)
    ]
    made = server.ask(PATH, {**body, "stream": stream})
    if not stream:
        assert [choice["message"]["content"] for choice in made.json["choices"]] == alone
        return
    parts = [""] * 7
    for choice in (choice for event in made.events for choice in event["choices"]):
        parts[choice["index"]] += choice["delta"].get("content", "")
    assert parts == alone


@pytest.mark.parametrize(
    ("prompt", "texts"),
    [
        ("ab", ["cd", "cd"]),
        (["ab", "f"], ["cd", "cd", "gh", "gh"]),
        ([97, 98], ["cd", "cd"]),
        ([[97, 98], [102]], ["cd", "cd", "gh", "gh"]),
        (["ab", [102]], ["cd", "cd", "gh", "gh"]),
    ],
)
def test_prompts_have_choices_of_their_own(server: Running, prompt: Any, texts: list[str]) -> None:
    body = {"prompt": prompt, "n": 2, "best_of": 2, "max_tokens": 2, "temperature": 0}
    made = server.ask(TEXT, body).json
    assert [(choice["index"], choice["text"]) for choice in made["choices"]] == list(enumerate(texts))
    assert made["usage"]["completion_tokens"] == 2 * len(texts)
    said = [""] * len(texts)
    for event in server.ask(TEXT, {**body, "stream": True}).events:
        for choice in event["choices"]:
            said[choice["index"]] += choice["text"]
    assert said == texts


@pytest.mark.parametrize("stream", [False, True])
def test_a_prompt_is_scored_and_nothing_said(server: Running, stream: bool) -> None:
    body = {"prompt": ["abc", "ax"], "max_tokens": 0, "echo": True, "logprobs": 1, "stream": stream}
    made = server.ask(TEXT, body)
    parts = [choice for event in made.events for choice in event["choices"]] if stream else made.json["choices"]
    texts, values = ["", ""], [[], []]  # type: ignore[var-annotated]
    for part in parts:
        texts[part["index"]] += part["text"]
        values[part["index"]] += (part["logprobs"] or {"token_logprobs": []})["token_logprobs"]
    assert texts == ["abc", "ax"]
    assert values[0][1] == values[0][2] > -0.1  # "b" and "c" are what follows
    assert values[0][0] == values[1][0] == values[1][1] < -9
    usage = made.events[-1].get("usage") if stream else made.json["usage"]
    assert stream or (usage["prompt_tokens"], usage["completion_tokens"]) == (7, 0)


def test_a_seed_gives_its_text_whatever_ran_before(server: Running) -> None:
    body = {"model": "vague", "messages": [USER], "max_tokens": 20, "seed": -7}
    first = server.ask(PATH, body).json
    server.ask(PATH, {**body, "messages": [USER, {"role": "assistant", "content": "x"}, USER], "seed": 1})
    again = server.ask(PATH, body).json
    assert again["choices"] == first["choices"]
    assert (
        server.ask(PATH, {**body, "cache_prompt": False}).json["usage"]["prompt_tokens_details"]["cached_tokens"] == 0
    )


@pytest.mark.parametrize(
    ("more", "text"),
    [
        ({"stop": ["d", ""]}, "bc"),
        ({"stop": "d"}, "bc"),
        ({"stop": []}, "bcde"),
        ({"logit_bias": {"98": -100, "120": 100}}, "xxxx"),
        ({"logit_bias": {"x": 100}}, "xxxx"),
        ({"logit_bias": [[98, False], ["q", 50]]}, "qqqq"),
        ({"grammar": 'root ::= "qq"'}, "qq"),
        ({"grammar": ""}, "bcde"),
        ({"json_schema": {"const": 12}}, "12"),
        ({"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {"const": 1}}}}, "1"),
        ({"max_tokens": None, "n_predict": 2}, "bc"),
        ({"max_tokens": 2, "max_completion_tokens": 2}, "bc"),
        ({"max_tokens": 0}, ""),
        ({"n": None, "tools": None, "user": None}, "bcde"),
        ({"samplers": ["top_k"], "top_k": 1}, "bcde"),
    ],
)
def test_fields_that_change_the_text(server: Running, more: dict[str, Any], text: str) -> None:
    made = server.ask(PATH, {**HELLO, **more}).json
    assert made["choices"][0]["message"]["content"] == text


def test_the_end_is_passed_over_where_that_is_asked_for(server: Running) -> None:
    body = {"prompt": "y", "max_tokens": 5, "temperature": 0}
    assert server.ask(TEXT, body).json["choices"][0]["text"] == "z"
    made = server.ask(TEXT, {**body, "ignore_eos": True}).json["choices"][0]
    assert (made["finish_reason"], made["text"][0]) == ("length", "z")


@pytest.mark.parametrize("path", [PATH, TEXT])
def test_a_line_ends_the_text(server: Running, path: str) -> None:
    """What comes has a line end and no blanks behind it."""
    grammar = 'root ::= "  b\\n  c\\n" [d-z]+'
    body = {**HELLO, "prompt": "a", "max_tokens": 20, "grammar": grammar}
    body.pop("prompt" if path == PATH else "messages")

    def said(**more: Any) -> tuple[str, str]:
        choice = server.ask(path, {**body, **more}).json["choices"][0]
        return choice["message"]["content"] if path == PATH else choice["text"], choice["finish_reason"]

    assert said()[0].startswith("  b\n  c\nd")
    assert said(n_indent=2) == ("  b\n  c\n", "length")
    assert said(t_max_predict_ms=60_000) == said() == said(t_max_predict_ms=-1)


def test_fields_that_are_taken(server: Running) -> None:
    taken = {
        "user": "u", "metadata": {"a": "b"}, "store": True, "service_tier": "flex", "prompt_cache_key": "k",
        "safety_identifier": "s", "verbosity": "low", "modalities": ["text"], "parallel_tool_calls": False,
        "prediction": {"type": "content", "content": "x"}, "return_progress": True,
        "id_slot": -1, "reasoning_format": "auto", "reasoning_effort": "none", "parse_tool_calls": True,
        "stream_options": {"include_obfuscation": False}, "prompt_cache_retention": "24h", "verbose": False,
    }  # fmt: skip
    made = server.ask(PATH, {**HELLO, **taken})
    assert made.status == 200, made.body
    assert made.json["choices"][0]["message"]["content"] == "bcde"


# -- what is refused --


@pytest.mark.parametrize(
    ("more", "param", "said"),
    [
        ({"temperature": -1}, "temperature", "from 0 to 2"),
        ({"temperature": "1"}, "temperature", "number"),
        ({"top_p": 1.5}, "top_p", "from 0 to 1"),
        ({"n": 10**9}, "n", "from 1 to 128"),
        ({"n": 0}, "n", "from 1 to 128"),
        ({"presence_penalty": 3}, "presence_penalty", "from -2 to 2"),
        ({"frequency_penalty": True}, "frequency_penalty", "number"),
        ({"max_tokens": -2}, "max_tokens", "at least -1"),
        ({"max_tokens": 3.5}, "max_tokens", "whole number"),
        ({"max_completion_tokens": 3}, "max_completion_tokens", "max_tokens are the same"),
        ({"temp": 1}, "temp", "are the same"),
        ({"seed": 1 << 70}, "seed", "64 bits"),
        ({"stop": ["a"] * 65}, "stop", "may have 64"),
        ({"stop": [1]}, "stop[0]", "text"),
        ({"stop": "a" * 5000}, "stop[0]", "4,096"),
        ({"logit_bias": {"5": 101}}, "logit_bias.5", "from -100 to 100"),
        ({"logit_bias": {"-5": 1}}, "logit_bias.-5", "at least 0"),
        ({"logit_bias": {"9999": 1}}, "logit_bias[9999]", "258 tokens"),
        ({"logit_bias": 5}, "logit_bias", "pairs"),
        ({"top_logprobs": 2}, "top_logprobs", "needs logprobs"),
        ({"logprobs": True, "top_logprobs": 1000}, "top_logprobs", "from 0 to 100"),
        ({"stream_options": {"usage": True}}, "stream_options.usage", "no field of stream_options"),
        ({"repetition_penalty": 1}, "repetition_penalty", "did you mean repeat_penalty?"),
        ({"zzzzz": None}, "zzzzz", "no field of this request"),
        ({"audio": {"voice": "x"}}, "audio", "text only"),
        ({"web_search_options": {}}, "web_search_options", "nothing is searched"),
        ({"modalities": ["text", "audio"]}, "modalities", '["text"]'),
        ({"moderation": {"model": "m"}}, "moderation", "moderates"),
        ({"verbose": True}, "verbose", "__verbose"),
        ({"reasoning_format": "deepseek-legacy"}, "reasoning_format", "auto"),
        ({"reasoning_format": "none", "tools": [FUNCTION]}, "reasoning_format", "goes with no tools"),
        ({"reasoning_budget_tokens": 100}, "reasoning_budget_tokens", "not cut off"),
        ({"reasoning_effort": "much"}, "reasoning_effort", "minimal"),
        ({"thinking_forced_open": True}, "thinking_forced_open", "template"),
        ({"grammar_triggers": []}, "grammar_triggers", "cannot be honoured"),
        ({"metadata": {"a": 1}}, "metadata.a", "text"),
        ({"response_format": {"type": "xml"}}, "response_format.type", "json_schema"),
        ({"response_format": {"type": "json_schema", "json_schema": {}}}, "response_format.json_schema.schema", "miss"),
        ({"response_format": {"type": "json_object"}, "grammar": 'root ::= "a"'}, "response_format", "one of them"),
        ({"grammar": "root ::= ("}, "grammar", "grammar"),
        ({"json_schema": {"type": "nothing"}}, "json_schema", "nothing"),
        ({"ignore_eos": True, "json_schema": {}}, "ignore_eos", "could not end"),
        ({"tools": [{"type": "custom", "custom": {"name": "x"}}]}, "tools[0].type", "custom"),
        ({"tools": [FUNCTION, FUNCTION]}, "tools[1]", "which another has"),
        ({"tools": "f"}, "tools", "list"),
        ({"tool_choice": "required"}, "tool_choice", "nothing to call"),
        ({"tools": [FUNCTION], "tool_choice": {"type": "function", "function": {"name": "g"}}}, "tool_choice", "'g'"),
        ({"tools": [FUNCTION], "tool_choice": {**ALLOWED, "allowed_tools": {"mode": "auto", "tools": [3]}}},
         "tool_choice.allowed_tools.tools[0]", "object"),
        ({"messages": []}, "messages", "empty"),
        ({"messages": "hi"}, "messages", "list"),
        ({"messages": [{"content": "a"}]}, "messages[0].role", "missing"),
        ({"messages": [{"role": "user", "content": [IMAGE]}]}, "messages[0].content[0]", "image_url"),
        ({"messages": [{"role": "user", "content": [{"type": "file", "file": {}}]}]}, "messages[0].content[0]", "file"),
        ({"messages": [{"role": "user", "content": 5}]}, "messages[0].content", "text"),
        ({"messages": [USER, answered()]}, "messages[1]", "no message before it"),
        ({"messages": [called(), answered("call_2")]}, "messages[1].tool_call_id", "call_1"),
        ({"messages": [called(), USER]}, "messages[0].tool_calls", "without an answer before messages[1]"),
        ({"messages": [USER, called()]}, "messages[1].tool_calls", "without an answer before the end"),
        ({"messages": [called(), answered(), answered()]}, "messages[2]", "no message before it"),
        ({"messages": [{**called(), "role": "user"}, answered()]}, "messages[0].tool_calls", "assistant"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_by_name(server: Running, more: dict[str, Any], param: str | None, said: str) -> None:
    answer = server.ask(PATH, {**HELLO, **more})
    error = answer.json["error"]
    assert (answer.status, error["type"]) == (400, "invalid_request_error")
    assert error["param"] == param
    assert said in error["message"]
    assert "\n" not in error["message"]


@pytest.mark.parametrize(
    ("more", "param", "said"),
    [
        ({"prompt": None}, "prompt", "missing"),
        ({"prompt": []}, "prompt", "empty"),
        ({"prompt": ["a", 5]}, "prompt[1]", "token ids"),
        ({"prompt": [97, "a"]}, "prompt[1]", "whole numbers"),
        ({"prompt": [[97], [999]]}, "prompt[1][0]", "999"),
        ({"prompt": {"a": 1}}, "prompt", "text"),
        ({"prompt": ["a"] * 1025}, "prompt", "1,024"),
        ({"prompt": ["a"] * 128, "n": 128}, "n", "1,024"),
        ({"best_of": 3}, "best_of", "n 1"),
        ({"logprobs": True}, "logprobs", "whole number"),
        ({"suffix": "b", "prompt": [97]}, "prompt", "text"),
        ({"suffix": "b"}, None, "fill"),
        ({"messages": [USER]}, "messages", "no field"),
        ({"prompt": "a" * 600}, "prompt", "the context holds 512"),
    ],
)
def test_prompts_that_cannot_be(server: Running, more: dict[str, Any], param: str | None, said: str) -> None:
    answer = server.ask(TEXT, {"prompt": "a", "max_tokens": 2, **more})
    error = answer.json["error"]
    assert (answer.status, error["param"]) == (400, param), error
    assert said in error["message"]


def test_a_model_without_a_template_says_so(server: Running) -> None:
    error = server.ask(PATH, {**HELLO, "model": "plain"}).json["error"]
    assert "no chat template" in error["message"]
    assert "/v1/completions" in error["message"]
    assert server.ask(TEXT, {"model": "plain", "prompt": "a", "max_tokens": 1, "temperature": 0}).status == 200


@pytest.mark.parametrize(
    "messages",
    [
        [called(id=None), answered(None)],
        [called(), answered(None)],
        [called(), answered(), USER],
        [called(arguments=""), answered()],
        [called(arguments="{oh"), answered()],
        [OLD_CALL, {"role": "function", "name": "f", "content": "1"}],
        [{"role": "assistant", "content": [{"type": "refusal", "refusal": "no"}]}, USER],
        [REFUSAL, USER],
        [{"role": "user", "content": [{"type": "text", "text": "a"}], "name": "bob"}],
    ],
)  # fmt: skip
def test_histories_that_clients_send(server: Running, messages: list[Any]) -> None:
    answer = server.ask(PATH, {**HELLO, "messages": messages})
    assert answer.status == 200, answer.body


def test_every_field_has_its_line() -> None:
    for table in (CHAT, COMPLETION, EMBEDDING, RERANK):
        told = markdown(table)
        assert told.count("\n") == len(table) + 2
        assert all(name == field.name and field.about for name, field in table.items())
