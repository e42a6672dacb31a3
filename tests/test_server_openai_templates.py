"""Chats over HTTP with templates of models: thoughts, variables, the end of a prompt, histories with calls.

A token is a byte here, and with max_tokens 0 nothing is said: how many tokens a prompt has tells what was written.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from serving import Running, serving
from small_chat import write_chat_model
from test_completions_chat import saying

import ggufpy

PATH = "/v1/chat/completions"
SPEAKS = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>{% endfor %}"
BEGINS = "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
THINKS = (
    SPEAKS
    + "{% if reasoning_effort %}({{ reasoning_effort }}){% endif %}"
    + "{% if thinking is defined %}[{{ thinking }}]{% endif %}"
    + "<|im_start|>assistant\n"
    + "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n{% endif %}"
)
# A template that writes the arguments of calls as it finds them in an object.
OBJECTS = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{% for c in m.tool_calls or [] %}<tool_call>"
    '{"name": "{{ c.function.name }}", "arguments": { '
    '{% for k, v in c.function.arguments.items() %}"{{ k }}": {{ v | tojson }}{% endfor %} }}</tool_call>{% endfor %}'
    "{{ m.content or '' }}<|im_end|>{% endfor %}{% if tools %}{{ tools | tojson }}{% endif %}" + BEGINS
)
USER = {"role": "user", "content": "hi"}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    def path(name: str, template: str) -> Path:
        return write_chat_model(tmp_path_factory.mktemp(name), 1024, template)

    paths = {"plain": path("plain", SPEAKS + BEGINS), "thinks": path("thinks", THINKS), "calls": path("calls", OBJECTS)}
    paths["refuses"] = path("refuses", "{{ raise_exception('only for kings') }}")
    with serving({name: lambda one=one: ggufpy.Llama(one, n_threads=1) for name, one in paths.items()}) as running:
        yield running


def count(server: Running, model: str, messages: list[Any] | None = None, **more: Any) -> int:
    """How many tokens the prompt has."""
    answer = server.ask(PATH, {"model": model, "messages": messages or [USER], "max_tokens": 0, **more})
    assert answer.status == 200, answer.body
    return int(answer.json["usage"]["prompt_tokens"])


def test_effort_is_a_matter_of_the_template(server: Running) -> None:
    plain = count(server, "thinks")
    assert count(server, "thinks", reasoning_effort="high") - plain == len("(high)")
    off = len("(low)") + len("[False]") + len("<think>\n\n</think>\n")
    assert count(server, "thinks", reasoning_effort="none") - plain == off
    assert count(server, "thinks", reasoning_effort="minimal") - plain == off
    assert count(server, "thinks", reasoning_budget_tokens=0) == count(server, "thinks", reasoning_effort="none")
    assert count(server, "thinks", thinking_budget_tokens=-1) == plain
    own = {"enable_thinking": True, "thinking": "x" * 9}
    assert count(server, "thinks", reasoning_effort="none", chat_template_kwargs=own) - plain == len("(low)") + 11
    assert count(server, "plain", reasoning_effort="none") == count(server, "plain")


@pytest.mark.parametrize("stream", [False, True])
def test_thoughts_are_told_apart_or_as_they_come(stream: bool) -> None:
    said = "<think>\nOslo, I guess.\n</think>\n\nRain."

    def ask(**more: Any) -> dict[str, str]:
        answer = server.ask(PATH, {"messages": [USER], "temperature": 0, "stream": stream, **more})
        parts = [event["choices"][0]["delta"] for event in answer.events] if stream else [
            answer.json["choices"][0]["message"]
        ]  # fmt: skip
        names = ("content", "reasoning_content")
        return {name: "".join(part.get(name) or "" for part in parts) for name in names}

    with serving({"told": lambda: saying(said)}) as server:
        assert ask() == {"content": "Rain.", "reasoning_content": "Oslo, I guess."}
        assert ask(reasoning_format="deepseek") == ask(reasoning_format="auto") == ask()
        assert ask(reasoning_format="none") == {"content": said, "reasoning_content": ""}


def test_the_end_of_a_prompt(server: Running) -> None:
    plain = count(server, "plain")
    begins = 1 + len("assistant\n")
    assert plain - count(server, "plain", add_generation_prompt=False) == begins
    said = [USER, {"role": "assistant", "content": "well"}]
    assert count(server, "plain", said, continue_final_message=True) == plain + len("well")
    assert count(server, "plain", said) == plain + len("well") + 1 + begins


def test_calls_in_a_history(server: Running) -> None:
    def said(arguments: str) -> list[Any]:
        call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": arguments}}
        answer = {"role": "tool", "tool_call_id": "c", "content": "1"}
        return [USER, {"role": "assistant", "tool_calls": [call]}, answer]

    assert count(server, "calls", said('{"a": 1}')) > count(server, "calls", said("{}"))
    assert count(server, "calls", said("")) == count(server, "calls", said("{}"))
    for arguments in ("{oh", "[1]", "12"):
        error = server.ask(PATH, {"model": "calls", "messages": said(arguments)}).json["error"]
        assert error["param"] == "messages[1].tool_calls[0].function.arguments"
        assert "object" in error["message"]


def test_a_template_that_refuses_says_why(server: Running) -> None:
    answer = server.ask(PATH, {"model": "refuses", "messages": [USER]})
    assert answer.status == 400
    assert "only for kings" in answer.json["error"]["message"]


@pytest.mark.parametrize(
    ("kwargs", "said"),
    [({"messages": []}, "messages"), ({"tools": []}, "tools"), ({"self": 1}, "self"), (5, "object")],
)
def test_variables_that_cannot_be(server: Running, kwargs: Any, said: str) -> None:
    answer = server.ask(PATH, {"model": "plain", "messages": [USER], "chat_template_kwargs": kwargs})
    assert answer.status == 400
    assert said in answer.json["error"]["message"]
    assert answer.json["error"]["param"].startswith("chat_template_kwargs")
